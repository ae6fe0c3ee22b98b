//! Promises about the processes together: real processes, real sockets, clients that nobody here
//! wrote.
//!
//! Every test has its own folder, its own ports (0, chosen by the system) and its own processes,
//! which it ends by their ids. Nothing sleeps and hopes: a test waits for a thing to be so.

mod client;
mod gateway;
mod link_proxy;
mod measures;
mod wire;

mod closes;
mod commands;
mod connections;
mod deliveries;
mod faults;
mod http_limits;
mod link;
mod logins;
mod operations;
mod origins;
mod publish;
mod publish_bodies;
mod publish_link;
mod receipts;
mod reloads;
mod secrets;
mod settings;
mod slow_consumers;
mod stop;
mod subscribe;
mod tls;
mod tokens;
mod websocket_limits;
