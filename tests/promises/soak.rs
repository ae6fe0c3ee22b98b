//! Faults one after the other, by chance, for as long as it is told to:
//! `SOAK_SECONDS=3600 cargo test -p tests --release -- --ignored soak --nocapture`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::let_pass;
use crate::crashes::{Doors, Load, restart_listen};
use crate::gateway::Gateway;
use crate::resuming::Begin;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    KillBroadcast,
    KillListen,
    KillBoth,
    TermBroadcast,
    TermListen,
    StopBroadcast,
    StopListen,
    Join,
    Quiet,
}

const TROUBLES: [Trouble; 9] = [
    Trouble::KillBroadcast,
    Trouble::KillListen,
    Trouble::KillBoth,
    Trouble::TermBroadcast,
    Trouble::TermListen,
    Trouble::StopBroadcast,
    Trouble::StopListen,
    Trouble::Join,
    Trouble::Quiet,
];

/// Numbers that look like chance, and are the same for the same seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

async fn befall(trouble: Trouble, gateway: Gateway, load: &mut Load, pause: Duration) -> Gateway {
    match trouble {
        Trouble::KillBroadcast => gateway.restart_broadcast(Signal::KILL).await,
        Trouble::TermBroadcast => gateway.restart_broadcast(Signal::TERM).await,
        Trouble::KillListen => restart_listen(gateway, Signal::KILL).await,
        Trouble::TermListen => restart_listen(gateway, Signal::TERM).await,
        Trouble::KillBoth => {
            gateway.listen.signal(Signal::KILL);
            let gateway = gateway.restart_broadcast(Signal::KILL).await;
            restart_listen(gateway, Signal::KILL).await
        }
        Trouble::StopBroadcast | Trouble::StopListen => {
            let is_listen = trouble == Trouble::StopListen;
            let process = if is_listen { &gateway.listen } else { &gateway.broadcast };
            process.signal(Signal::STOP);
            let_pass(pause).await;
            process.signal(Signal::CONT);
            gateway
        }
        Trouble::Join => {
            load.join(&Begin::Now { is_whole: false });
            gateway
        }
        Trouble::Quiet => gateway,
    }
}

#[tokio::test]
#[ignore = "it takes minutes: SOAK_SECONDS, 300 without it"]
async fn soak_under_faults_by_chance_loses_nothing() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(300, |it| it.parse().unwrap());
    let seed = std::env::var("SOAK_SEED").map_or_else(|_| seed_of_now(), |it| it.parse().unwrap());
    eprintln!("SOAK_SEED={seed}");
    let mut chance = Chance(seed);
    let doors = Doors::choose();
    let mut gateway = doors.house().set("PUBLISH_TIMEOUT", "1s").open();
    let mut load = Load::begin(&gateway).await;
    let mut befallen = BTreeMap::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let trouble = TROUBLES[chance.below(TROUBLES.len() as u64) as usize];
        let pause = Duration::from_millis(chance.below(4000));
        gateway = befall(trouble, gateway, &mut load, pause).await;
        *befallen.entry(trouble).or_insert(0) += 1;
        load.goes_on().await;
    }
    let summary = load.judged(&gateway).await;
    eprintln!("{summary}; {befallen:?}");
}

fn seed_of_now() -> u64 {
    // Never 0: chance would stay there.
    jiff::Timestamp::now().as_nanosecond() as u64 | 1
}
