//! What `listen` and `broadcast` must agree on, to the byte.
//!
//! Knows no route and no client's protocol. A module enters when both processes use it.

pub mod address;
pub mod admin;
pub mod amqp;
pub mod bearer;
pub mod body;
pub mod cloudevents;
pub mod credentials;
pub mod descriptors;
pub mod documents;
pub mod event;
pub mod failures;
pub mod guard;
pub mod http;
pub mod json;
pub mod link;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod occupancy;
pub mod pattern;
pub mod principal;
pub mod process;
pub mod publisher;
pub mod reload;
pub mod server;
pub mod settings;
pub mod signals;
pub mod socket;
pub mod tls;
pub mod tokens;
