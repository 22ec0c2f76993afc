//! Logs: for people on a terminal, JSON otherwise; always on standard error, which leaves standard
//! output to results.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Sends logs to standard error. `LIFEBOAT_LOG` chooses what (as `RUST_LOG` does elsewhere), or else
/// `level`.
pub fn log_to_stderr(level: &str) {
    let filter = EnvFilter::try_from_env("LIFEBOAT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    // A second call, as tests make it, changes nothing.
    let _ = if terminal {
        logs.with_target(false).compact().try_init()
    } else {
        logs.json().try_init()
    };
}
