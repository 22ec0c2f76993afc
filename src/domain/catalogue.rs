//! The error catalogue: every failure that a person can meet, with its class, wording and next step.
//!
//! Ids are `SR-<area><nn>`: 10 configuration, authorization and requests, 20 host, 21 link, 22 vault,
//! 23 tracking and replication, 24 resynchronization, 30 operations and failover, 50 event log and service.
//! An id is never reused.

use super::failure::Class;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How bad it is for the VM that it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Protection goes on, or will by itself.
    Warning,
    /// Protection has stopped or is about to.
    Critical,
}

/// Who ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResolvedBy {
    /// Lifeboat itself, by its retry schedule.
    System,
    /// An administrator.
    Administrator,
}

/// One entry. `{name}` in a text stands for a fact of the failure.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The code that events store.
    pub code: Code,
    /// The id that people see.
    pub id: &'static str,
    /// The retry class.
    pub class: Class,
    /// How bad it is.
    pub level: Level,
    /// Who ends it.
    pub resolved_by: ResolvedBy,
    /// At most 60 characters; a fact.
    pub title: &'static str,
    /// What stopped, for whom, with numbers.
    pub message: &'static str,
    /// Possible causes, the likeliest first.
    pub causes: &'static [&'static str],
    /// What happens if nobody does anything.
    pub next: &'static str,
    /// What an administrator can do.
    pub action: &'static str,
}

macro_rules! catalogue {
    ($($(#[$doc:meta])* $code:ident = $id:literal, $class:ident, $level:ident, $by:ident,
        title: $title:literal, message: $message:literal, causes: [$($cause:literal),+ $(,)?],
        next: $next:literal, action: $action:literal;)+) => {
        /// A failure's identity. Events store its place in this list, exports its name: variants are
        /// added at the end, never renamed or moved.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* $code,)+ }

        /// Every entry, in the order of [`Code`].
        pub const ENTRIES: &[Entry] = &[$(Entry {
            code: Code::$code, id: $id, class: Class::$class, level: Level::$level,
            resolved_by: ResolvedBy::$by, title: $title, message: $message,
            causes: &[$($cause),+], next: $next, action: $action,
        },)+];
    };
}

catalogue! {
    /// A setting is wrong.
    ConfigurationInvalid = "SR-1001", NonRecoverable, Critical, Administrator,
        title: "A setting is wrong",
        message: "the configuration cannot be used: {setting}",
        causes: ["a value is out of range or misspelled"],
        next: "Nothing starts until the setting is right.",
        action: "Correct the setting that the message names and start again.";
    /// The vault refused the credentials.
    AuthenticationFailed = "SR-1011", NonRecoverable, Critical, Administrator,
        title: "The vault refused the credentials",
        message: "{target} refused the credentials for {operation}",
        causes: ["the key or token expired or was replaced", "the clock of this machine is wrong"],
        next: "Nothing is sent until an administrator acts; changes are tracked meanwhile.",
        action: "Renew the vault's credentials, then retry the VM.";
    /// The credentials do not allow the operation.
    AuthorizationFailed = "SR-1012", NonRecoverable, Critical, Administrator,
        title: "The vault does not allow this operation",
        message: "{target} does not allow {operation} with these credentials",
        causes: ["the role lacks write permission", "a policy of the storage forbids it"],
        next: "Nothing is sent until an administrator acts; changes are tracked meanwhile.",
        action: "Grant the permission that the message names, then retry the VM.";
    /// A host does not answer.
    HostLost = "SR-2001", Recoverable, Critical, System,
        title: "The host does not answer",
        message: "host {host} does not answer",
        causes: ["the host lost power or crashed", "the host's agent is not running"],
        next: "Replication goes on by itself when the host is back.",
        action: "If the host will not come back, fail its VMs over.";
    /// The VM is not where it should be.
    VmNotFound = "SR-2003", NonRecoverable, Critical, Administrator,
        title: "The VM was not found on its host",
        message: "VM {vm} was not found on host {host}",
        causes: ["the VM was deleted or moved to a host that is not registered"],
        next: "Nothing is replicated until an administrator acts.",
        action: "Bring the VM back or disable its protection.";
    /// A disk of the VM cannot be used.
    DiskUnusable = "SR-2004", NonRecoverable, Critical, Administrator,
        title: "A disk of the VM cannot be used",
        message: "disk {disk} cannot be used",
        causes: ["the file is missing, has another size, or is open elsewhere", "the medium returns errors"],
        next: "Nothing is replicated for this VM until an administrator acts; other VMs go on.",
        action: "Restore the file that the message names, or disable the VM's protection.";
    /// The network between host and vault is down.
    LinkDown = "SR-2101", Recoverable, Critical, System,
        title: "The vault cannot be reached",
        message: "{target} cannot be reached for {operation}",
        causes: ["the network between host and vault is down", "the vault's endpoint is down"],
        next: "It is tried again by schedule and at once when the vault answers; changes are tracked meanwhile.",
        action: "Check the network between the host and the vault.";
    /// The vault asks to slow down or fails for now.
    VaultBusy = "SR-2102", Recoverable, Warning, System,
        title: "The vault asks to slow down",
        message: "{target} did not take {operation} for now",
        causes: ["the storage throttles", "the storage has a fault of its own"],
        next: "It is tried again by schedule; changes are tracked meanwhile.",
        action: "Raise the storage's limits if this lasts.";
    /// The vault has no room.
    VaultFull = "SR-2201", Recoverable, Critical, System,
        title: "The vault is out of space",
        message: "{target} has no room for {operation}",
        causes: ["the volume or quota of the vault is full"],
        next: "It is tried again by schedule; changes are tracked meanwhile.",
        action: "Free or add space on the vault's storage.";
    /// An object of the vault does not hold what it should.
    ReplicaDamaged = "SR-2202", NonRecoverable, Critical, Administrator,
        title: "An object of the vault is damaged",
        message: "object {object} of the vault is damaged: {damage}",
        causes: ["the storage lost or changed bytes", "somebody edited the vault by hand"],
        next: "Recovery points that need the object cannot be used; others can.",
        action: "Restore the object from a copy of the vault, or resynchronize the VM.";
    /// The replica is not in the state that the operation needs.
    ReplicaInvalid = "SR-2203", NonRecoverable, Critical, Administrator,
        title: "The replica is in an invalid state",
        message: "the replica of {vm} cannot take {operation}: {damage}",
        causes: ["two services write to the same replica", "the vault was restored to an older state"],
        next: "Nothing is sent for this VM until an administrator acts.",
        action: "Stop the other writer, then resynchronize the VM.";
    /// The volume of the logs has no room.
    LogVolumeFull = "SR-2301", Recoverable, Critical, System,
        title: "The volume of the replication logs is full",
        message: "the volume of {path} has no room for replication logs",
        causes: ["the vault could not be reached for long", "something else fills the volume"],
        next: "It is tried again by schedule; the VM itself goes on.",
        action: "Free space on the volume that the message names.";
    /// A log or the chain of logs is broken.
    LogChainBroken = "SR-2302", NonRecoverable, Critical, Administrator,
        title: "The chain of replication logs is broken",
        message: "replication log {path} cannot be applied: {damage}",
        causes: ["a log was removed, replaced or damaged", "the disk was restored to an older state"],
        next: "The VM is marked for resynchronization.",
        action: "Nothing, the VM resynchronizes; look for what changed the log.";
    /// The host's memory or another local resource is short.
    HostResourcesShort = "SR-2303", Recoverable, Warning, System,
        title: "The host is short of a resource",
        message: "host {host} could not do {operation}",
        causes: ["memory, file handles or threads are short", "a local disk answers with errors"],
        next: "It is tried again by schedule; changes are tracked meanwhile.",
        action: "Give the host the resource that the provider's message names.";
    /// A check before an operation failed.
    PrerequisiteFailed = "SR-3003", NonRecoverable, Warning, Administrator,
        title: "A prerequisite is not met",
        message: "{check} is not met for {vm}",
        causes: ["the VM or the vault is not in the state that the operation needs"],
        next: "The job has ended; nothing was changed.",
        action: "Bring about what the message names and start the job again.";
    /// The replica VM did not start.
    ReplicaDidNotStart = "SR-3010", Recoverable, Critical, System,
        title: "The replica VM did not start",
        message: "the replica of {vm} did not start",
        causes: ["the recovery site lacks a resource", "the guest does not boot from this recovery point"],
        next: "It is tried again by schedule.",
        action: "Look at the recovery site's driver message; choose another recovery point.";
    /// The source VM did not stop.
    SourceDidNotStop = "SR-3011", Recoverable, Critical, System,
        title: "The source VM did not shut down",
        message: "{vm} did not shut down on host {host}",
        causes: ["the guest ignores the request", "the host does not answer"],
        next: "It is tried again by schedule; the VM keeps running at the primary site.",
        action: "Shut the VM down by hand, or run an unplanned failover.";
    /// The event log refuses to go on.
    EventLogFailed = "SR-5001", NonRecoverable, Critical, Administrator,
        title: "The event log cannot be written",
        message: "the event log in {path} cannot be written",
        causes: ["the volume is full or answers with errors", "the log is damaged"],
        next: "The service stops, since it must not act on what it cannot record.",
        action: "Run `lifeboat events verify`, free space or restore the log, and start again.";
    /// Tracking was lost again before the resynchronization that it had called for was complete.
    TrackingLostAgain = "SR-2401", Recoverable, Critical, System,
        title: "Tracking was lost again during resynchronization",
        message: "the changes of {vm} were lost again while it was being resynchronized",
        causes: ["the volume of the replication logs is full or answers with errors", "the host lost power again"],
        next: "The resynchronization is tried again by schedule.",
        action: "Look at the volume of the replication logs; earlier recovery points can be used.";
    /// The guest was not quiesced for an application-consistent recovery point.
    GuestNotQuiesced = "SR-2011", Recoverable, Warning, System,
        title: "The guest's applications could not be brought to rest",
        message: "recovery point {cycle} of {vm} is crash-consistent: its applications were not brought to rest",
        causes: ["an application did not finish its transactions in time", "the guest has no agent that can be asked"],
        next: "Replication goes on; an application-consistent point is tried again after 15 minutes.",
        action: "Look at the guest's agent, or switch application-consistent points off in the policy.";
    /// What recovery points that are past their retention took cannot be freed.
    SpaceNotReclaimed = "SR-2204", Recoverable, Warning, System,
        title: "The vault's space cannot be reclaimed",
        message: "what expired recovery points of {vm} take in the vault cannot be freed",
        causes: ["the vault cannot be reached or refuses deletions", "an object of the replica is damaged"],
        next: "Replication goes on and the vault grows; it is tried again every few minutes.",
        action: "Do what the vault's message asks for; allow deletion of objects with these credentials.";
    /// A request of the control API came without its token.
    TokenRefused = "SR-1021", NonRecoverable, Warning, Administrator,
        title: "The control token is missing or wrong",
        message: "{operation} was refused: the control token is missing or wrong",
        causes: ["the token file is that of another service", "the token file was made anew since"],
        next: "Nothing was changed.",
        action: "Send the token of the file that endpoint.json in the data folder names, as `Authorization: Bearer TOKEN`.";
    /// A request of the control API cannot be understood.
    RequestInvalid = "SR-1022", NonRecoverable, Warning, Administrator,
        title: "The request cannot be used",
        message: "the request cannot be used: {damage}",
        causes: ["a value is out of range, misspelled or missing", "the client is of another version"],
        next: "Nothing was changed.",
        action: "Correct what the message names and ask again.";
    /// A request of the control API names what is not there.
    NothingOfThisName = "SR-1023", NonRecoverable, Warning, Administrator,
        title: "There is nothing of this name",
        message: "{object} does not exist",
        causes: ["the name is misspelled", "it belongs to another site"],
        next: "Nothing was changed.",
        action: "Look at the names with `lifeboat status`.";
    /// The state of a thing does not allow what was asked.
    OperationNotAllowed = "SR-3001", NonRecoverable, Warning, Administrator,
        title: "The state does not allow this operation",
        message: "{check}",
        causes: ["another job runs", "the operation belongs to another state", "protection of the VM was ended at the recovery site, where it runs"],
        next: "Nothing was changed.",
        action: "Choose an operation that the message names as allowed, or wait until the running job has ended.";
    /// The service cannot answer at this moment.
    ServiceNotReady = "SR-5011", Recoverable, Warning, System,
        title: "The service cannot answer yet",
        message: "{operation} cannot be answered yet",
        causes: ["the service has just started and is reading its log", "a part of it died and is being built anew"],
        next: "The service becomes ready by itself.",
        action: "Ask again, with the same request id if it was a command.";
    /// A step of a recovery plan failed.
    ActionFailed = "SR-3101", NonRecoverable, Critical, Administrator,
        title: "A step of a recovery plan failed",
        message: "step {action} of a recovery plan failed",
        causes: ["the script ended with an error or took too long", "what the gate probes does not answer", "a VM of the step failed"],
        next: "A planned run has stopped, another goes on without it; a gate waits for a decision.",
        action: "Look at the output of the step; then retry it, continue the run, or run the plan again.";
    /// A registration key admits nobody.
    RegistrationKeyRefused = "SR-1031", NonRecoverable, Warning, Administrator,
        title: "The registration key is refused",
        message: "the registration key {damage}",
        causes: ["it is older than 5 days", "it was used already", "it is another vault's"],
        next: "Nothing was changed.",
        action: "Get another with `lifeboat vault registration-key VAULT`.";
    /// The provider of a fabric does not answer.
    ProviderSilent = "SR-2005", Recoverable, Warning, System,
        title: "The provider does not answer",
        message: "the provider of {fabric} does not answer",
        causes: ["the management server is down", "the network to it is down"],
        next: "It is asked again and comes back by itself; replication and failovers go on meanwhile.",
        action: "Look at the management server of the site.";
    /// A network has no counterpart at the recovery site.
    NetworkNotMapped = "SR-3021", NonRecoverable, Warning, Administrator,
        title: "A network is mapped to none of the recovery site",
        message: "network {network} is mapped to none of the recovery site",
        causes: ["the network is new", "its mapping was removed"],
        next: "VMs in it start at the recovery site without being connected there.",
        action: "Map it with `lifeboat network-mapping set NETWORK --to NETWORK`, or choose one with `lifeboat vm set --network`.";
    /// Two VMs would have one address at the recovery site.
    AddressClash = "SR-3022", NonRecoverable, Warning, Administrator,
        title: "Two VMs would have one address at the recovery site",
        message: "address {address} in network {network} of the recovery site is wanted by several VMs",
        causes: ["networks with the same addresses are mapped to one", "an address was chosen twice"],
        next: "Whoever fails over first gets it, another VM gets another address.",
        action: "Choose another address with `lifeboat vm set VM --nic NIC --ip ADDRESS`.";
    /// The image of a disk that is to be added is a VM's already.
    DiskInUse = "SR-2006", NonRecoverable, Warning, Administrator,
        title: "The image is a disk of a VM already",
        message: "image {path} cannot be added to {vm}: it is {damage}",
        causes: ["the path is that of another disk", "two names lead to one file"],
        next: "Nothing was changed.",
        action: "Give the VM an image of its own.";
    /// A VM has no recovery point yet.
    FirstPointMissing = "SR-2311", Recoverable, Warning, System,
        title: "There is no complete recovery point yet",
        message: "the first recovery point of {vm} is not complete",
        causes: ["protection was enabled not long ago", "a failover was cancelled not long ago"],
        next: "The initial replication completes it by itself.",
        action: "Look at the progress with `lifeboat job list --vm VM`.";
    /// Replication is paused.
    ReplicationPaused = "SR-2312", NonRecoverable, Warning, Administrator,
        title: "Replication is paused",
        message: "replication of {vm} was paused",
        causes: ["somebody paused it"],
        next: "Nothing is sent, and what a lost site would cost grows.",
        action: "Resume it with `lifeboat vm resume VM`.";
    /// The newest recovery point is too old.
    PointLate = "SR-2313", Recoverable, Critical, System,
        title: "The newest recovery point is too old",
        message: "the newest recovery point of {vm} is older than the policy asks for",
        causes: ["the VM writes faster than the link carries", "the vault or the host does not answer"],
        next: "Replication catches up by itself.",
        action: "Look at the link with `lifeboat vm show VM`; if this lasts, give it more bandwidth or the policy a longer interval.";
    /// Many cycles were left out.
    CyclesMissed = "SR-2314", Recoverable, Warning, System,
        title: "Many replication cycles were missed",
        message: "more than a fifth of the cycles of {vm} were missed",
        causes: ["the VM writes faster than the link carries", "the vault or the host did not answer for a while"],
        next: "Replication goes on by itself; the count begins anew with the next interval.",
        action: "Look at the statistics with `lifeboat vm show VM`; give the link more bandwidth, or the policy a longer interval.";
    /// The replica is out of step with the disks.
    OutOfStep = "SR-2315", Recoverable, Critical, System,
        title: "The replica is out of step with the disks",
        message: "it is not known which blocks of {vm} the replica lacks",
        causes: ["the host lost power or its logs were damaged", "the logs became too large", "an object of the replica is damaged"],
        next: "The disks are compared with the replica by itself, at the time that the window allows.",
        action: "Begin it at once with `lifeboat vm resync VM`; if the site is lost, fail over to an earlier recovery point, where there is one.";
    /// A VM is being failed over.
    FailoverRunning = "SR-3031", Recoverable, Warning, System,
        title: "The VM is being failed over",
        message: "{vm} is being failed over and is not replicated meanwhile",
        causes: ["somebody asked for it, or a recovery plan"],
        next: "The VM starts at the recovery site by itself.",
        action: "Watch it with `lifeboat job list --vm VM`; it can be taken back with `lifeboat failover cancel VM`.";
    /// A VM waits for the turn of its group.
    StartHeld = "SR-3032", Recoverable, Warning, System,
        title: "The VM waits for its recovery plan",
        message: "{vm} is off, and its failover waits for its recovery plan",
        causes: ["the groups before it have not started yet", "the run of the plan waits for somebody"],
        next: "The plan goes on with it by itself when its turn comes.",
        action: "Look at the run with `lifeboat plan show PLAN`, or start the VM at once with `lifeboat failover release VM`.";
    /// A VM that no run of its plan is to start is off at both sites.
    StartForgotten = "SR-3033", NonRecoverable, Critical, Administrator,
        title: "The VM is off at both sites",
        message: "{vm} is off at both sites, and no run of a recovery plan is to go on with it",
        causes: ["the run of its plan failed or was cancelled before the turn of its group came"],
        next: "It stays off at both sites until somebody decides. What it wrote last is on the disks of the primary site, unless the plan had come to its groups.",
        action: "Run its plan again, or start it with `lifeboat failover release VM`, or take it back with `lifeboat failover cancel VM`.";
    /// A failover or a failback is to be made final.
    CommitRequired = "SR-3034", NonRecoverable, Warning, Administrator,
        title: "A failover waits for its commit",
        message: "{vm} was moved to the other site and is not replicated",
        causes: ["the failover is to be looked at before it becomes final"],
        next: "The VM runs on without protection until somebody commits or cancels.",
        action: "Commit with `lifeboat failover commit VM` when the VM works as it should; a failover can be taken back with `lifeboat failover cancel VM`.";
    /// A failover is being undone.
    FailoverBeingUndone = "SR-3035", Recoverable, Warning, System,
        title: "The failover is being undone",
        message: "the failover of {vm} is being undone and the VM is off meanwhile",
        causes: ["somebody cancelled it"],
        next: "The VM starts at the primary site by itself, then it is replicated again.",
        action: "Watch it with `lifeboat job list --vm VM`.";
    /// A VM is being failed back.
    FailbackRunning = "SR-3036", Recoverable, Warning, System,
        title: "The VM is being failed back",
        message: "{vm} is being failed back and is not replicated meanwhile",
        causes: ["somebody asked for it"],
        next: "Its disks at the primary site are brought into step, while it runs on; that ends by itself.",
        action: "Watch it with `lifeboat job list --vm VM`.";
    /// A failback waits to be completed.
    FailbackReady = "SR-3037", NonRecoverable, Warning, Administrator,
        title: "A failback is ready to be completed",
        message: "the disks of {vm} at the primary site are in step",
        causes: ["a failback was begun and its data is synchronized"],
        next: "The VM runs on at the recovery site, and its disks at the primary site are kept in step.",
        action: "Move the VM with `lifeboat failback complete VM`, at a time when it may stop for a moment.";
    /// A VM that was failed back is not replicated.
    NotReversed = "SR-3038", NonRecoverable, Warning, Administrator,
        title: "A VM that was failed back is not replicated",
        message: "{vm} was failed back and is not replicated",
        causes: ["its replication was not reversed yet"],
        next: "What it writes is tracked, and not sent.",
        action: "Protect it again with `lifeboat failback reverse VM`.";
    /// What a test left is still there.
    TestNotCleanedUp = "SR-3039", Recoverable, Warning, System,
        title: "A test failover could not be cleaned up",
        message: "the test failover of {vm} is not cleaned up",
        causes: ["the recovery site does not answer"],
        next: "It is tried again by schedule.",
        action: "Look at the recovery site's driver message with `lifeboat vm show VM`.";
    /// A failover could not be done.
    FailoverFailed = "SR-3041", NonRecoverable, Critical, Administrator,
        title: "A failover failed",
        message: "{operation} of {vm} failed",
        causes: ["one of its checks did not pass"],
        next: "Nothing was changed; the VM is as well protected as before.",
        action: "Look at the errors of the job with `lifeboat job show JOB`, and ask for it again.";
    /// A run of a recovery plan waits for somebody.
    RunWaits = "SR-3102", NonRecoverable, Warning, Administrator,
        title: "A recovery plan waits for somebody",
        message: "a run of a recovery plan waits at {action}",
        causes: ["a manual action is to be done", "a gate stayed shut"],
        next: "The run waits until somebody says how it goes on.",
        action: "Do what it waits for, then `lifeboat plan continue PLAN`; or `lifeboat plan retry PLAN`, or `lifeboat plan cancel PLAN`.";
    /// All VMs of a host are Critical.
    VmsCritical = "SR-2012", NonRecoverable, Warning, Administrator,
        title: "Every VM of the host is Critical",
        message: "every protected VM of {host} is Critical",
        causes: ["what they have in common is broken: the host's storage, its network, its agent"],
        next: "Each VM goes on as its own causes say.",
        action: "Look at what its VMs say with `lifeboat status`, and at the host.";
    /// The volume of the logs will be full before long.
    LogVolumeLow = "SR-2304", Recoverable, Warning, System,
        title: "The volume of the replication logs is short of space",
        message: "the volume of {path} has little room left for the replication logs of {vm}",
        causes: ["the vault could not be reached for long", "something else fills the volume"],
        next: "Replication goes on. Once the volume is full the VM goes on, and is resynchronized by itself when there is room.",
        action: "Free space on the volume that the message names, or move the logs to a larger one.";
    /// Cycles take too long.
    LatencyHigh = "SR-2316", Recoverable, Warning, System,
        title: "Replication cycles take long",
        message: "the cycles of {vm} take more than 5 minutes on average",
        causes: ["the VM writes faster than the link carries", "the vault or the host did not answer for a while"],
        next: "Replication goes on by itself; the average begins anew with the next interval.",
        action: "Look at the statistics with `lifeboat vm show VM`; give the link more bandwidth.";
    /// A planned failover would not find a place at the recovery site.
    NoPlace = "SR-3023", NonRecoverable, Warning, Administrator,
        title: "A planned failover would not find its place",
        message: "a planned failover of {vm} would stop at its check: {damage}",
        causes: ["no size of the recovery site takes the VM", "what was chosen for its replica is held by another VM, or is gone"],
        next: "An unplanned failover starts the VM with what there is; replication goes on.",
        action: "Choose what there is with `lifeboat vm set VM --size SIZE`, or `--nic NIC --ip ADDRESS`.";
}

/// The entry of a code.
pub fn entry(code: Code) -> &'static Entry {
    &ENTRIES[code as usize]
}

/// Fills the `{name}` places of `text`; a fact that is missing stays visible as `{name}`.
pub fn render(text: &str, facts: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        let Some(len) = rest[start..].find('}') else { break };
        out.push_str(&rest[..start]);
        let name = &rest[start + 1..start + len];
        match facts.get(name) {
            Some(value) => out.push_str(value),
            None => out.push_str(&rest[start..=start + len]),
        }
        rest = &rest[start + len + 1..];
    }
    out.push_str(rest);
    out
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(entry(*self).id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_its_own_entry_and_id() {
        let ids: BTreeSet<_> = ENTRIES.iter().map(|entry| entry.id).collect();
        assert_eq!(ids.len(), ENTRIES.len());
        for (index, listed) in ENTRIES.iter().enumerate() {
            assert_eq!(listed.code as usize, index);
            assert!(listed.title.len() <= 60, "{} is too long", listed.title);
            assert_eq!(entry(listed.code).id, listed.id);
        }
    }

    #[test]
    fn the_class_says_who_resolves_it() {
        for entry in ENTRIES {
            let system = entry.resolved_by == ResolvedBy::System;
            assert_eq!(system, entry.class == Class::Recoverable, "{}", entry.id);
        }
    }

    #[test]
    fn a_missing_fact_stays_visible() {
        let facts = BTreeMap::from([("vm".to_owned(), "sql-01".to_owned())]);
        assert_eq!(render("{vm} on {host} {", &facts), "sql-01 on {host} {");
    }
}
