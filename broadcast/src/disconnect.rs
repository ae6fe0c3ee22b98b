//! Why we hang up on a client, and what it is told (WIRE §1.4).

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disconnect {
    /// The process stops.
    Restarting,
    /// The outbox overflowed, or nothing moved for too long.
    SlowConsumer,
    /// Memory is short, or a newer connection needs the place.
    TryAgainLater,
    /// A message was larger than allowed.
    MessageTooBig,
    /// Too many frames, pings or fragments.
    Policy,
    /// Nothing was heard for too long.
    Silent,
    /// Too many failed authentications.
    Unauthenticated,
    /// No credential in time.
    InitTimeout,
    /// The token is no longer in the table.
    TokenWithdrawn,
    /// The token's time is over.
    TokenExpired,
    /// The grants no longer cover what was subscribed.
    Forbidden,
    /// The client broke the WebSocket protocol.
    Protocol,
    /// A text message was not UTF-8.
    NotUtf8,
    /// A message that cannot be read, where Phoenix would crash.
    Unreadable,
    /// We failed.
    Internal,
}

impl Disconnect {
    /// The close code and its reason.
    pub fn code_and_reason(self) -> (u16, &'static str) {
        match self {
            Self::Restarting => (1012, "restarting"),
            Self::SlowConsumer => (1013, "slow consumer"),
            Self::TryAgainLater => (1013, "try again later"),
            Self::MessageTooBig => (1009, "message too big"),
            Self::Policy => (1008, "policy"),
            Self::Silent => (1001, "silent"),
            Self::Unauthenticated => (4401, "unauthenticated"),
            Self::InitTimeout => (4401, "init timeout"),
            Self::TokenWithdrawn => (4401, "token withdrawn"),
            Self::TokenExpired => (4401, "token expired"),
            Self::Forbidden => (4403, "forbidden"),
            Self::Protocol => (1002, "protocol error"),
            Self::NotUtf8 => (1007, "not UTF-8"),
            Self::Unreadable => (1011, "unreadable message"),
            Self::Internal => (1011, "internal error"),
        }
    }

    /// Whether what still waits for the client is given up. Otherwise it is sent first.
    pub fn gives_up_queue(self) -> bool {
        matches!(self, Self::SlowConsumer | Self::TryAgainLater)
    }
}
