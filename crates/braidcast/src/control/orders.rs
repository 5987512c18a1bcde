//! What an operator's command says to a running front, and what it hears back, over a socket in the shared directory.
//!
//! The directory belongs to the user that runs the server and is closed to others: whoever can reach the socket may give orders.

use super::{ProcessId, WorkerId};
use crate::logging::RoomLevel;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the orders' socket in the shared directory.
pub const SOCKET_NAME: &str = "orders.sock";

/// Where it is.
pub fn socket_path(shared_dir: &Path) -> PathBuf {
    shared_dir.join(SOCKET_NAME)
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The worker's sessions go to others; it ends and is started anew.
    Drain(WorkerId),
    /// Sessions move until the workers have their shares.
    Rebalance,
    /// The binary that lies on disk now takes over.
    Upgrade,
    /// A process of another server gets no publishers any more; when its streams have ended it is started anew.
    DrainProcess(ProcessId),
    /// The processes of another server are replaced by this program, one by one.
    UpgradeProcesses(String),
    /// Rooms get other levels of log lines, in all processes.
    LogLevels {
        /// First all levels become what is configured.
        reset: bool,
        /// The rooms and their levels.
        set: Vec<RoomLevel>,
    },
    /// The configuration is read anew.
    Reload,
    /// To the front that comes after [`Report::Follow`]: how does it go on?
    FollowUpgrade,
}

/// What the front says about an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It goes on: a line for people.
    Progress(String),
    /// Another front takes over: connect again, and ask with [`Order::FollowUpgrade`]. Nothing follows here.
    Follow,
    /// It is done: a line for people. Nothing follows.
    Done(String),
    /// It was not carried out, and why. Nothing follows.
    Refused(String),
}
