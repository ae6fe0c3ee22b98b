//! The `broadcast` process.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match shared::settings::read(std::env::args_os()) {
        Ok(config) => broadcast::run(config),
        Err(exit) => exit,
    }
}
