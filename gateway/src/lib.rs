//! A gateway as the commands see it: where it is, who calls, whether it is ready, and what ties its
//! processes to the command that starts them.

pub mod caller;
pub mod endpoint;
pub mod leash;
pub mod readiness;
pub mod reservation;
