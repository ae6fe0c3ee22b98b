//! How long it takes to give out: patterns matched, events encoded, batches published.
//!
//! `cargo bench -p broadcast`. The numbers are the machine's; what must not change on any machine
//! is counted in `tests/allocations.rs`.

#![allow(clippy::unwrap_used, reason = "a bench may panic: that is how it fails")]

use std::hint::black_box;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use broadcast::cursor::Epoch;
use broadcast::hub::Hub;
use broadcast::outbox::Outbox;
use broadcast::outputs::FORMATS;
use broadcast::outputs::native::rules;
use broadcast::publication::{Placed, Publication};
use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shared::event::{Data, Event, EventType, Json, Time};
use shared::memory::Memory;
use shared::pattern::Pattern;

const TYPES: usize = 100;
/// Events of a batch.
const EVENTS: usize = 100;

fn event(event_type: &str) -> Event {
    let data = format!(r#"{{"order":4711,"padding":"{}"}}"#, "x".repeat(200));
    Event {
        event_type: EventType::parse(event_type.to_owned()).unwrap(),
        data: Some(Data::Json(Json::from_checked(Bytes::from(data)))),
        id: "01935a5e-3c1b-7000-8000-000000000000".into(),
        source: "/shop/orders".into(),
        subject: None,
        time: Time::parse("2026-11-21T12:00:00.000000Z").unwrap(),
        publisher: "shop".into(),
        attributes: None,
    }
}

fn type_of(number: usize) -> String {
    format!("shop.order.{}", number % TYPES)
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text.to_owned()).unwrap()
}

fn patterns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pattern");
    for text in ["shop.order.7", "shop.*.7", "shop.>", "other.>"] {
        let pattern = pattern(text);
        group.bench_function(text, |bencher| {
            bencher.iter(|| pattern.matches(black_box("shop.order.7")));
        });
    }
}

fn encodings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let memory = Memory::new(usize::MAX);
    let epoch: Epoch = "epoch".parse().unwrap();
    let events: Vec<Event> = (0..EVENTS).map(|number| event(&type_of(number))).collect();
    for format in FORMATS {
        group.bench_function(format.name(), |bencher| {
            bencher.iter(|| {
                let placed = (1..).zip(&events);
                let placed = placed.map(|(offset, event)| Placed { epoch: &epoch, offset, event });
                format.frames(placed, &memory)
            });
        });
    }
}

/// A hub whose sessions have one type each, and one in ten all of them.
fn hub(sessions: usize, memory: &Arc<Memory>) -> (Hub, Vec<Rc<Outbox>>) {
    let mut hub = Hub::default();
    let mut outboxes = Vec::new();
    for number in 0..sessions {
        let outbox = Rc::new(Outbox::new(usize::MAX, memory));
        let id = hub.enter(Rc::clone(&outbox), &rules::PLAIN);
        let text = if number % 10 == 0 { "shop.>".to_owned() } else { type_of(number) };
        hub.subscribe(id, &pattern(&text));
        outboxes.push(outbox);
    }
    (hub, outboxes)
}

/// A batch of an event of each type, encoded, offered, and taken off the outboxes again.
fn publishing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    let memory = Memory::new(usize::MAX);
    let epoch: Epoch = "epoch".parse().unwrap();
    let events: Vec<Event> = (0..EVENTS).map(|number| event(&type_of(number))).collect();
    for sessions in [100, 1_000, 5_000] {
        let (mut hub, outboxes) = hub(sessions, &memory);
        let mut next_offset = 1;
        let mut due = Vec::new();
        let batch =
            |first_offset| Publication::new(epoch.clone(), first_offset, events.clone(), &memory);
        hub.publish(&batch(next_offset));
        let deliveries = hub.take_deliveries();
        group.throughput(Throughput::Elements(deliveries));
        let id = BenchmarkId::from_parameter(format!("{sessions}_sessions_{TYPES}_types"));
        group.bench_function(id, |bencher| {
            let next_batch = || {
                next_offset += EVENTS as u64;
                batch(next_offset)
            };
            bencher.iter_batched(
                next_batch,
                |batch| {
                    hub.publish(&batch);
                    hub.take_due(&mut due);
                    due.clear();
                    outboxes.iter().for_each(|outbox| drain(outbox));
                    batch
                },
                BatchSize::PerIteration,
            );
        });
    }
}

/// As a socket that takes everything at once.
fn drain(outbox: &Outbox) {
    while outbox.bytes() > 0 {
        let count = |slices: &[IoSlice<'_>]| slices.iter().map(|it| it.len()).sum();
        let taken = outbox.with_slices(count);
        outbox.advance(taken);
    }
}

criterion_group! {
    name = delivery;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = patterns, encodings, publishing
}
criterion_main!(delivery);
