//! Promises about the processes together: real processes, real sockets, clients that nobody here
//! wrote.
//!
//! Every test has its own folder, its own ports (0, chosen by the system) and its own processes,
//! which it ends by their ids. Nothing sleeps and hopes: a test waits for a thing to be so.

mod channels;
mod client;
mod event_stream;
mod gateway;
mod history;
mod link_proxy;
mod measures;
mod node;
mod ports;
mod publishers;
mod replay;
mod resuming;
mod trace;
mod wire;

mod agent_events;
mod agents;
mod bench;
mod browser;
mod catch_up;
mod closes;
mod commands;
mod connections;
mod crashes;
mod damage;
mod deliveries;
mod disk_full;
mod durability;
mod encodings;
mod faults;
mod http_limits;
mod idempotency;
mod kept;
mod link;
mod logins;
mod operations;
mod origins;
mod pages;
mod phoenix_clients;
mod phoenix_joins;
mod phoenix_messages;
mod pipelining;
mod publish;
mod publish_bodies;
mod publish_link;
mod receipts;
mod reloads;
mod resume;
mod resume_refusals;
mod retention;
mod secrets;
mod settings;
mod slow_consumers;
mod soak;
mod stop;
mod streams;
mod subscribe;
mod system_calls;
mod tickets;
mod tls;
mod tokens;
mod websocket_limits;
