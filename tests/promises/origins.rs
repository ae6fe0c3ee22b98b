//! Which pages a browser may open sessions from (HARDENING, "Credentials and secrets").

use crate::gateway::House;
use crate::wire::{Wire, upgrade_request};

#[tokio::test]
async fn with_a_list_of_origins_only_their_pages_and_programs_come_in() {
    let house = House::new().set("ALLOWED_ORIGINS", "https://a.example, https://b.example:8443");
    let broadcast = house.broadcast();
    let table = [
        ("", 101),
        ("Origin: https://a.example\r\n", 101),
        ("Origin: https://b.example:8443\r\n", 101),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: https://a.example.evil\r\n", 403),
        ("Origin: http://a.example\r\n", 403),
        ("Origin: https://a.example:444\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: \r\n", 403),
        ("Origin: https://a.example\r\nOrigin: https://a.example\r\n", 403),
        ("Origin: https://a.example\r\nOrigin: null\r\n", 403),
    ];
    for (headers, expected) in table {
        let mut wire = Wire::connect(&broadcast).await;
        wire.send(upgrade_request("/", headers)).await;
        let (head, body) = wire.read_answer().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{headers:?}: {head}");
        assert_eq!(body, if expected == 403 { r#"{"code":"FORBIDDEN"}"# } else { "" });
        assert!(!head.to_lowercase().contains("access-control"), "CORS is off: {head}");
    }
}

#[tokio::test]
async fn without_a_list_pages_from_everywhere_come_in() {
    let house = House::new();
    let broadcast = house.broadcast();
    for headers in ["Origin: https://any.example\r\n", "Origin: null\r\n", ""] {
        let mut wire = Wire::connect(&broadcast).await;
        wire.send(upgrade_request("/", headers)).await;
        let head = wire.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{headers:?}: {head}");
    }
}
