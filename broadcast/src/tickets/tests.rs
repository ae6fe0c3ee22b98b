use shared::credentials::Credentials;
use shared::tokens::file;

use super::*;

const LINE: &str = "0123456789abcdef name=all";

fn tokens(text: &str) -> Tokens {
    file::parse(text.as_bytes()).0
}

async fn ticket(tickets: &Tickets, now: Instant) -> String {
    let shown = Credentials::read("Basic 0123456789abcdef");
    let principal = tokens(LINE).authenticate(&shown).unwrap();
    tickets.give(&principal, now).await.unwrap()
}

#[tokio::test]
async fn a_ticket_opens_its_stream_within_30_s_and_again_as_long_as_its_token_lives() {
    let tickets = Tickets::in_memory();
    let now = Instant::now();
    let (good, late) = (ticket(&tickets, now).await, ticket(&tickets, now).await);
    let tokens = tokens(LINE);
    let (principal, claim) = tickets.admit(&good, "a", &tokens, now).unwrap();
    let first = tickets.open_claimed(Some(claim)).await.unwrap();
    assert_eq!(&*principal.name, "all");
    let later = now + Duration::from_secs(31);
    let refused = |text: &str, stream: &str, tokens: &Tokens| {
        tickets.admit(text, stream, tokens, later).unwrap_err()
    };
    assert_eq!(refused(&late, "a", &tokens), TicketError::Unknown);
    assert_eq!(refused(&good, "another", &tokens), TicketError::Unknown);
    assert!(!first.is_superseded());
    let (_, claim) = tickets.admit(&good, "a", &tokens, later).unwrap();
    assert!(!first.is_superseded(), "a request that is refused after all changes nothing");
    let second = tickets.open_claimed(Some(claim)).await.unwrap();
    assert!(first.is_superseded() && !second.is_superseded());
    assert_eq!(refused(&good, "a", &Tokens::default()), TicketError::Withdrawn);
    assert_eq!(refused("x", "a", &tokens), TicketError::Unknown);
}

#[tokio::test]
async fn an_opened_stream_is_remembered_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NAME);
    let now = Instant::now();
    let tickets = Tickets::open(&path).unwrap();
    let text = ticket(&tickets, now).await;
    let tokens = tokens(LINE);
    let (_, claim) = tickets.admit(&text, "a", &tokens, now).unwrap();
    tickets.open_claimed(Some(claim)).await.unwrap();
    drop(tickets);
    let again = Tickets::open(&path).unwrap();
    let later = now + Duration::from_secs(3600);
    assert!(again.admit(&text, "b", &tokens, later).is_err());
    assert!(again.admit(&text, "a", &tokens, later).is_ok());
}

#[test]
fn those_that_were_not_opened_go_first_and_then_those_not_used_for_longest() {
    let mut known = Known::default();
    let digest = |number: usize| Digest::of(&number.to_string());
    let now = Instant::now();
    let opened = Use::Opened(digest(0));
    known.give(digest(0), Owner::Token(None), Use::WaitsSince(now), now);
    for number in 1..TICKETS_MAX {
        assert!(known.give(digest(number), Owner::Token(None), opened, now).is_empty());
    }
    let later = now + Duration::from_secs(31);
    assert_eq!(known.give(digest(TICKETS_MAX), Owner::Token(None), opened, later), [digest(0)]);
    let tokens = tokens("anonymous");
    let claim = Claim { ticket: digest(1), stream: digest(0) };
    assert!(known.admit(claim, &tokens, later).is_ok() && known.open(claim).is_some());
    assert_eq!(known.give(digest(TICKETS_MAX + 1), Owner::Token(None), opened, later), [digest(2)]);
    assert_eq!(known.order.len(), known.by_digest.len());
}
