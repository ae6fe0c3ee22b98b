//! The settings of Pipely's channels (WIRE §6).

use std::num::NonZeroU32;

use clap::Args;

/// What can be told of channels.
#[derive(Debug, Clone, Args)]
pub struct Channels {
    /// Whether there are channels at /subscribe and /publish: they let in clients without a token
    #[arg(long, env = "CHANNELS_ENABLE", value_name = "true|false", default_value = "false",
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub channels_enable: bool,

    /// The most channels
    #[arg(long, env = "MAX_CHANNELS", value_name = "COUNT", default_value = "10000")]
    pub max_channels: NonZeroU32,

    /// The most clients of one channel
    #[arg(long, env = "MAX_CHANNEL_CLIENTS", value_name = "COUNT", default_value = "1000")]
    pub max_channel_clients: NonZeroU32,
}
