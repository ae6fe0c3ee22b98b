//! Who may consume a durable queue (WIRE 7): credentials, grants, one at a time, and operators.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::client::{answer, code, fire};
use crate::event_stream::ticket;
use crate::gateway::{Gateway, House, TOKEN};
use crate::queue_stream::{
    QueueStream, TAKEN, ask, ask_as, ask_plainly, data, listed, make, numbered, refusal,
    wait_for_listing,
};
use crate::replay::fire_numbers;

const READER: &str = "0123456789abcdef-reader";
const OTHER: &str = "0123456789abcdef-other";

fn tokens(subscribe: &str) -> String {
    format!(
        "{TOKEN} name=all\n{READER} name=reader publish=none subscribe={subscribe}\n\
         {OTHER} name=other publish=none subscribe=a\n"
    )
}

#[tokio::test]
async fn a_queue_takes_a_header_a_ticket_or_anonymous_and_nothing_else() {
    let gateway = House::new().with_tokens(&tokens("a,b")).open();
    let told = (401, code("UNAUTHENTICATED"));
    for request in [
        ask_plainly(&gateway.broadcast, "id=q"),
        ask_plainly(&gateway.broadcast, &format!("id=q&token={TOKEN}")),
        ask_plainly(&gateway.broadcast, "id=q&ticket=guessed"),
        ask_as(&gateway.broadcast, "0123456789abcdef-wrong", "id=q"),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(answer(response).await, told);
    }
    let refused = ask_as(&gateway.broadcast, READER, "id=q&type=c").send().await.unwrap();
    assert_eq!(answer(refused).await, (403, code("FORBIDDEN")));
    assert!(listed(&gateway.broadcast).await.is_empty());
    QueueStream::of(ask_as(&gateway.broadcast, READER, "id=header")).await;
    let ticket = ticket(&gateway.broadcast, READER).await;
    QueueStream::of(ask_plainly(&gateway.broadcast, &format!("id=ticket&ticket={ticket}"))).await;
    for queue in listed(&gateway.broadcast).await {
        assert_eq!(queue["types"], json!(["a", "b"]), "{queue}");
    }
}

#[tokio::test]
async fn an_anonymous_line_opens_queues_to_everybody() {
    let line = "anonymous subscribe=public.> publish=none\n";
    let gateway = House::new().with_tokens(&format!("{}{line}", tokens("a"))).open();
    let mut stream = QueueStream::of(ask_plainly(&gateway.broadcast, "id=q")).await;
    fire(&gateway, "secret", "0").await;
    fire(&gateway, "public.a", "1").await;
    assert_eq!(stream.message().await, data("1"));
    let refused = ask_plainly(&gateway.broadcast, "id=r&type=secret").send().await.unwrap();
    assert_eq!(answer(refused).await, (403, code("FORBIDDEN")));
    // A wrong credential is never none.
    let wrong = ask_as(&gateway.broadcast, "0123456789abcdef-wrong", "id=r").send().await.unwrap();
    assert_eq!(answer(wrong).await, (401, code("UNAUTHENTICATED")));
}

#[tokio::test]
async fn what_a_queue_wants_is_said_at_its_first_opening() {
    let gateway = Gateway::open();
    make(&gateway, "q", "type=a").await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q&type=b").await;
    fire(&gateway, "b", "1").await;
    fire(&gateway, "a", "2").await;
    assert_eq!(stream.message().await, data("2"));
    assert_eq!(listed(&gateway.broadcast).await[0]["types"], json!(["a"]));
}

#[tokio::test]
async fn another_principal_needs_grants_for_all_that_is_in_the_queue() {
    let gateway = House::new().with_tokens(&tokens("a,b")).open();
    drop(QueueStream::of(ask_as(&gateway.broadcast, READER, "id=q")).await);
    wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
    for query in ["id=q", "id=q&type=a"] {
        let refused = ask_as(&gateway.broadcast, OTHER, query).send().await.unwrap();
        assert_eq!(answer(refused).await, (403, code("FORBIDDEN")), "{query}");
    }
    // Who may have all of it may have it.
    fire(&gateway, "b", "1").await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    assert_eq!(stream.message().await, data("1"));
}

#[tokio::test]
async fn a_queue_has_one_consumer_at_a_time() {
    let gateway = Gateway::open();
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    for _ in 0..3 {
        let second = ask(&gateway.broadcast, "id=q").send().await.unwrap();
        assert_eq!(refusal(second).await, TAKEN);
    }
    // Nobody else's ticket moves it.
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    let second = ask_plainly(&gateway.broadcast, &format!("id=q&ticket={ticket}"));
    assert_eq!(refusal(second.send().await.unwrap()).await, TAKEN);
    fire(&gateway, "a", "1").await;
    assert_eq!(stream.message().await, data("1"));
    drop(stream);
    QueueStream::open_when_free(&gateway.broadcast, "id=q").await;
}

#[tokio::test]
async fn of_consumers_at_the_same_instant_exactly_one_is_let_in() {
    let gateway = Gateway::open();
    for round in 0..20 {
        let tries = (0..6).map(|_| ask(&gateway.broadcast, &format!("id={round}")).send());
        let mut let_in = 0;
        // Until all are answered nobody leaves.
        let answers = join_all(tries).await;
        for response in answers {
            let response = response.unwrap();
            if response.status() == 200 {
                let_in += 1;
            } else {
                assert_eq!(refusal(response).await, TAKEN);
            }
        }
        assert!(let_in >= 1, "nobody");
    }
}

#[tokio::test]
async fn a_tickets_reconnect_takes_its_own_queue_over() {
    let gateway = Gateway::open();
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    let query = format!("id=q&ticket={ticket}");
    let mut stream = QueueStream::of(ask_plainly(&gateway.broadcast, &query)).await;
    for round in 0..3 {
        fire_numbers(&gateway, "a", round..round + 1).await;
        assert_eq!(stream.message().await, data(&round.to_string()));
        let next = QueueStream::of(ask_plainly(&gateway.broadcast, &query)).await;
        assert_eq!(stream.ended().await, Vec::<String>::new());
        stream = next;
    }
    assert_eq!(listed(&gateway.broadcast).await[0]["consumers"], 1);
}

#[tokio::test]
async fn a_withdrawn_token_ends_its_stream_and_what_waits_stays() {
    let gateway = House::new().with_tokens(&tokens("a,b")).open();
    let ticket = ticket(&gateway.broadcast, READER).await;
    let by_ticket = format!("id=t&ticket={ticket}");
    let mut stream = QueueStream::of(ask_as(&gateway.broadcast, READER, "id=q")).await;
    let other = QueueStream::of(ask_plainly(&gateway.broadcast, &by_ticket)).await;
    fire(&gateway, "a", "1").await;
    assert_eq!(stream.message().await, data("1"));
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    stream.ended().await;
    other.ended().await;
    let refused = ask_as(&gateway.broadcast, READER, "id=q").send().await.unwrap();
    assert_eq!(answer(refused).await, (401, code("UNAUTHENTICATED")));
    // What stops `EventSource` for good.
    let stopped = ask_plainly(&gateway.broadcast, &by_ticket).send().await.unwrap();
    assert_eq!(stopped.status(), 204);
    fire_numbers(&gateway, "b", 0..3).await;
    let mut stream = QueueStream::open_when_free(&gateway.broadcast, "id=q").await;
    assert_eq!(stream.messages(3).await, numbered(0..3));
}

#[tokio::test]
async fn grants_that_are_narrowed_end_the_stream_of_what_is_gone() {
    let gateway = House::new().with_tokens(&tokens("a,b")).open();
    let both = QueueStream::of(ask_as(&gateway.broadcast, READER, "id=both")).await;
    let mut one = QueueStream::of(ask_as(&gateway.broadcast, READER, "id=one&type=a")).await;
    gateway.house.write_tokens(&tokens("a"));
    both.ended().await;
    let refused = ask_as(&gateway.broadcast, READER, "id=both").send().await.unwrap();
    assert_eq!(answer(refused).await, (403, code("FORBIDDEN")));
    fire(&gateway, "a", "1").await;
    assert_eq!(one.message().await, data("1"));
}

#[tokio::test]
async fn queues_are_looked_after_by_operators_alone() {
    let line = "anonymous subscribe=a publish=none\n";
    let gateway = House::new().with_tokens(&tokens("a")).open();
    make(&gateway, "q", "type=a").await;
    let (client, url) = (reqwest::Client::new(), gateway.broadcast.url());
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    for (method, path) in [(Method::GET, "/queues"), (Method::DELETE, "/queues/q")] {
        let asked = |query: &str, token: &str| {
            let request = client.request(method.clone(), format!("{url}{path}{query}"));
            match token {
                "" => request,
                token => request.header("authorization", format!("Basic {token}")),
            }
        };
        for (query, token, status, told) in [
            (String::new(), "", 401, "UNAUTHENTICATED"),
            (String::new(), "0123456789abcdef-wrong", 401, "UNAUTHENTICATED"),
            (format!("?ticket={ticket}"), "", 401, "UNAUTHENTICATED"),
            (String::new(), READER, 403, "FORBIDDEN"),
        ] {
            let response = asked(&query, token).send().await.unwrap();
            assert_eq!(answer(response).await, (status, code(told)), "{method} {query} {token}");
        }
    }
    for (method, path, allow) in
        [(Method::POST, "/queues", "GET"), (Method::GET, "/queues/q", "DELETE")]
    {
        let response = client.request(method, format!("{url}{path}")).send().await.unwrap();
        assert_eq!(response.headers()["allow"], allow);
        assert_eq!(answer(response).await, (405, code("METHOD_NOT_ALLOWED")));
    }
    gateway.house.write_tokens(&format!("{}{line}", tokens("a")));
    crate::measures::until("anonymous is somebody, and no operator", async || {
        let response = client.get(format!("{url}/queues")).send().await.unwrap();
        (answer(response).await == (403, code("FORBIDDEN"))).then_some(())
    })
    .await;
    assert_eq!(listed(&gateway.broadcast).await.len(), 1);
}

#[tokio::test]
async fn a_queue_that_is_deleted_ends_its_stream_and_is_made_anew_empty() {
    let gateway = Gateway::open();
    let client = reqwest::Client::new();
    let delete = async |name: &str| {
        let url = format!("{}/queues/{name}", gateway.broadcast.url());
        let request = client.delete(url).header("authorization", format!("Basic {TOKEN}"));
        answer(request.send().await.unwrap()).await
    };
    for (query, path) in [("a%20b/c?d%25%C3%BC", "a%20b%2Fc%3Fd%25%C3%BC"), ("Case", "Case")] {
        let stream = QueueStream::open(&gateway.broadcast, &format!("id={query}")).await;
        assert_eq!(delete(path).await, (200, code("OK")));
        assert_eq!(stream.ended().await, Vec::<String>::new());
        assert_eq!(delete(path).await, (404, code("NOT_FOUND")));
    }
    make(&gateway, "q", "type=a").await;
    fire_numbers(&gateway, "a", 0..3).await;
    for path in ["Q", "q/", "%FF", "other"] {
        assert_eq!(delete(path).await, (404, code("NOT_FOUND")), "{path}");
    }
    assert_eq!(delete("q").await, (200, code("OK")));
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q&type=b").await;
    fire(&gateway, "b", "7").await;
    assert_eq!(stream.message().await, data("7"));
    // And a restart brings back what was made, not what was deleted.
    drop(stream);
    let gateway = gateway.restart_broadcast(rustix::process::Signal::KILL).await;
    let left = listed(&gateway.broadcast).await;
    assert_eq!((left.len(), &left[0]["types"]), (1, &json!(["b"])));
}
