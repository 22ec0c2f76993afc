//! Bugs that can be planted: each makes the run wrong in one way, and a checker that does not notice is
//! no checker. No scenario file can ask for one.

/// A bug in what the simulation stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// Some writes reach the disk past the tracker: they are acknowledged and never sent.
    UntrackedWrite,
    /// The hypervisor says that a VM is off, and it runs on.
    ShutDownLies,
    /// An object of a recovery point disappears from the vault after it was acknowledged.
    LostObject,
    /// Work whose cause of failure has ended hangs.
    HangingShip,
    /// A copy never ends and never fails.
    HangingCopy,
    /// The log keeps another event than the actors were told.
    ForgedEvent,
    /// The log keeps an event that the command does not lead to.
    UndecidedEvent,
    /// The watch of a host reports back and forth without an end.
    Chatter,
    /// Failed work is tried again off the schedule.
    HastyTimer,
    /// A disk that is changed after a kill looks as if nobody had touched it.
    UnseenEdit,
    /// A guest says that it is at rest, and goes on writing.
    RestlessGuest,
    /// The storage overwrites what it should only create: nothing keeps two writers apart.
    NoFence,
}

impl Plant {
    /// Every bug.
    pub const ALL: [Self; 12] = [
        Self::UntrackedWrite,
        Self::ShutDownLies,
        Self::LostObject,
        Self::HangingShip,
        Self::HangingCopy,
        Self::ForgedEvent,
        Self::UndecidedEvent,
        Self::Chatter,
        Self::HastyTimer,
        Self::UnseenEdit,
        Self::RestlessGuest,
        Self::NoFence,
    ];
}
