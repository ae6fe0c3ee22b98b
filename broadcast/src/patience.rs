//! How long a client is waited for: to show a credential, to say something, to take its bytes.
//!
//! Rules without a clock: they are told the time, and say what is due.

use std::time::Duration;

use tokio::time::Instant;

use crate::disconnect::Disconnect;

/// WIRE §1.4: a silent client is pinged after so long.
const PING_AFTER: Duration = Duration::from_secs(30);
/// WIRE §1.4: and let go after so long.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// HARDENING: an outbox of which no byte moved for so long ends its session.
const STALL_MAX: Duration = Duration::from_secs(15);

/// The patience with one client.
#[derive(Debug)]
pub struct Patience {
    /// When a credential is due; none once one was shown, or where none is waited for.
    init_deadline: Option<Instant>,
    last_heard: Instant,
    is_pinged: bool,
}

/// What is due with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// To ask whether it is there.
    Ping,
    /// To let it go.
    Disconnect(Disconnect),
}

impl Patience {
    /// Begins with the upgrade.
    pub fn new(init_timeout: Option<Duration>, now: Instant) -> Self {
        let init_deadline = init_timeout.map(|timeout| now + timeout);
        Self { init_deadline, last_heard: now, is_pinged: false }
    }

    /// The client has sent something, whatever it was.
    pub fn hear(&mut self, now: Instant) {
        self.last_heard = now;
        self.is_pinged = false;
    }

    /// The client has shown a credential.
    pub fn settle(&mut self) {
        self.init_deadline = None;
    }

    /// When something is due next. `stuck_since` is when a byte last moved to a client whose
    /// socket is full.
    pub fn next(&self, stuck_since: Option<Instant>) -> Instant {
        let silence = if self.is_pinged { SILENCE_MAX } else { PING_AFTER };
        let stall = stuck_since.map(|since| since + STALL_MAX);
        let deadlines = [self.init_deadline, stall].into_iter().flatten();
        deadlines.fold(self.last_heard + silence, Instant::min)
    }

    /// What is due now. A ping is due once, until the client is heard again. While we do not listen
    /// to it, its silence is ours.
    pub fn judge(
        &mut self,
        is_listened_to: bool,
        stuck_since: Option<Instant>,
        now: Instant,
    ) -> Due {
        if !is_listened_to {
            self.hear(now);
        }
        if self.init_deadline.is_some_and(|deadline| deadline <= now) {
            return Due::Disconnect(Disconnect::InitTimeout);
        }
        if stuck_since.is_some_and(|since| since + STALL_MAX <= now) {
            return Due::Disconnect(Disconnect::SlowConsumer);
        }
        if self.last_heard + SILENCE_MAX <= now {
            return Due::Disconnect(Disconnect::Silent);
        }
        if self.last_heard + PING_AFTER <= now && !self.is_pinged {
            self.is_pinged = true;
            return Due::Ping;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(init_timeout: Option<u64>) -> (Patience, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let after = move |seconds| start + Duration::from_secs(seconds);
        (Patience::new(init_timeout.map(Duration::from_secs), start), after)
    }

    #[test]
    fn a_silent_client_is_pinged_once_after_30_s_and_let_go_after_60() {
        let (mut patience, after) = patience(None);
        assert_eq!(patience.next(None), after(30));
        assert_eq!(patience.judge(true, None, after(29)), Due::Nothing);
        assert_eq!(patience.judge(true, None, after(30)), Due::Ping);
        assert_eq!(patience.judge(true, None, after(31)), Due::Nothing);
        assert_eq!(patience.next(None), after(60));
        assert_eq!(patience.judge(true, None, after(59)), Due::Nothing);
        assert_eq!(patience.judge(true, None, after(60)), Due::Disconnect(Disconnect::Silent));
    }

    #[test]
    fn a_client_that_is_heard_has_all_its_time_again() {
        let (mut patience, after) = patience(None);
        patience.judge(true, None, after(30));
        patience.hear(after(45));
        assert_eq!(patience.next(None), after(75));
        assert_eq!(patience.judge(true, None, after(74)), Due::Nothing);
        assert_eq!(patience.judge(true, None, after(75)), Due::Ping);
        assert_eq!(patience.judge(true, None, after(105)), Due::Disconnect(Disconnect::Silent));
    }

    #[test]
    fn a_credential_is_due_whatever_else_is_heard() {
        let (mut patience, after) = patience(Some(10));
        patience.hear(after(9));
        assert_eq!(patience.next(None), after(10));
        assert_eq!(patience.judge(true, None, after(9)), Due::Nothing);
        assert_eq!(patience.judge(true, None, after(10)), Due::Disconnect(Disconnect::InitTimeout));
        patience.settle();
        assert_eq!(patience.judge(true, None, after(10)), Due::Nothing);
        assert_eq!(patience.next(None), after(39));
    }

    #[test]
    fn a_client_that_takes_nothing_is_let_go_after_15_s() {
        let (mut patience, after) = patience(None);
        let stuck = Some(after(2));
        assert_eq!(patience.next(stuck), after(17));
        assert_eq!(patience.judge(true, stuck, after(16)), Due::Nothing);
        assert_eq!(
            patience.judge(true, stuck, after(17)),
            Due::Disconnect(Disconnect::SlowConsumer)
        );
    }

    #[test]
    fn a_client_that_is_not_listened_to_is_not_taken_for_a_silent_one() {
        let (mut patience, after) = patience(None);
        for seconds in [30, 60, 90, 120] {
            assert_eq!(patience.next(None), after(seconds));
            assert_eq!(patience.judge(false, None, after(seconds)), Due::Nothing);
        }
        // Now it may speak, and has all its time to.
        assert_eq!(patience.judge(true, None, after(149)), Due::Nothing);
        assert_eq!(patience.judge(true, None, after(150)), Due::Ping);
        assert_eq!(patience.judge(true, None, after(180)), Due::Disconnect(Disconnect::Silent));
    }

    #[test]
    fn a_client_that_is_not_listened_to_still_has_to_take_what_it_is_sent() {
        let (mut patience, after) = patience(Some(10));
        let stuck = Some(after(2));
        assert_eq!(patience.judge(false, stuck, after(9)), Due::Nothing);
        let timeout = Due::Disconnect(Disconnect::InitTimeout);
        assert_eq!(patience.judge(false, stuck, after(10)), timeout);
        patience.settle();
        let slow = Due::Disconnect(Disconnect::SlowConsumer);
        assert_eq!(patience.judge(false, stuck, after(17)), slow);
    }
}
