//! Host, cloud and vault: what they are told, however often and in whatever order.

use super::story::{link_down, vault};
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::id::{CloudId, HostId, VaultId, VmId};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vault::Component;
use lifeboat::domain::{cloud, host, vault};
use proptest::prelude::*;
use uuid::Uuid;

fn now(step: usize) -> Timestamp {
    super::story::second(step as i64)
}

/// Tells commands; each is told twice, and the second time must say nothing. Returns the state,
/// which its events alone give again.
fn tell<E: Entity>(commands: &[E::Command]) -> E
where
    E::Event: PartialEq,
{
    let mut entity = E::default();
    let mut log = Vec::new();
    for (step, command) in commands.iter().enumerate() {
        let Ok(events) = entity.decide(command, now(step)) else { continue };
        for event in events {
            entity.apply(&event, now(step));
            log.push((step, event));
        }
        assert_eq!(entity.decide(command, now(step)).unwrap_or_default(), [], "{command:?}");
    }
    let mut folded = E::default();
    for (step, event) in log {
        folded.apply(&event, now(step));
    }
    assert_eq!(folded, entity);
    let config = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(&entity, config).unwrap();
    let (read, _): (E, _) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
    assert_eq!(read, entity);
    let text = serde_json::to_string(&entity).unwrap();
    assert_eq!(serde_json::from_str::<E>(&text).unwrap(), entity);
    entity
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("a".to_owned()), Just("b".to_owned())]
}

fn host_command() -> impl Strategy<Value = host::Command> {
    prop_oneof![
        (0_u128..2, name(), 0_u128..2).prop_map(|(id, name, cloud)| host::Command::Register {
            id: HostId(Uuid::from_u128(id)),
            name,
            cloud: CloudId(Uuid::from_u128(cloud)),
        }),
        Just(host::Command::ReportHeartbeat),
        Just(host::Command::ReportSilence { failure: link_down() }),
        (0_u128..2)
            .prop_map(|n| host::Command::RegisterAgent { vault: VaultId(Uuid::from_u128(n)) }),
        proptest::option::of(name()).prop_map(|cluster| host::Command::JoinCluster { cluster }),
    ]
}

fn vault_command() -> impl Strategy<Value = vault::Command> {
    prop_oneof![
        name().prop_map(|name| vault::Command::Create { id: super::story::vault(), name }),
        Just(vault::Command::ReportReachable),
        Just(vault::Command::ReportUnreachable { failure: link_down() }),
        name().prop_map(|digest| vault::Command::IssueRegistrationKey { digest }),
        (name(), 0_u128..3).prop_map(|(digest, n)| use_key(&digest, n)),
    ]
}

fn use_key(digest: &str, n: u128) -> vault::Command {
    vault::Command::UseRegistrationKey {
        digest: digest.to_owned(),
        by: Component::Host(HostId(Uuid::from_u128(n))),
        name: format!("host-{n}"),
    }
}

fn cloud_command() -> impl Strategy<Value = cloud::Command> {
    let vm = |n| VmId(Uuid::from_u128(n));
    prop_oneof![
        name().prop_map(|name| cloud::Command::Create { id: CloudId(Uuid::from_u128(3)), name }),
        (0_u128..3).prop_map(|n| cloud::Command::AddHost { host: HostId(Uuid::from_u128(n)) }),
        (0_u128..3).prop_map(move |n| cloud::Command::AddVm { vm: vm(n) }),
        (0_u32..1000).prop_map(|copy_frequency_s| cloud::Command::AssociatePolicy {
            policy: Policy { copy_frequency_s, ..Policy::default() }
        }),
        (0_u32..3).prop_map(|copy_frequency_s| cloud::Command::ConfigurePolicy {
            policy: Policy { copy_frequency_s, ..Policy::default() }
        }),
        (0_u128..3, 0_u32..6).prop_map(move |(n, revision)| cloud::Command::ReportPolicyTaken {
            vm: vm(n),
            revision
        }),
    ]
}

proptest! {
    #[test]
    fn a_host_is_watched_from_its_registration_on(
        commands in proptest::collection::vec(host_command(), 0..30)
    ) {
        let host: host::Host = tell(&commands);
        prop_assert_eq!(host.pending().is_empty(), host.name.is_empty());
        prop_assert!(host.silent.is_none() || !host.name.is_empty());
    }

    #[test]
    fn a_vault_is_watched_from_its_creation_on(
        commands in proptest::collection::vec(vault_command(), 0..30)
    ) {
        let vault: vault::Vault = tell(&commands);
        prop_assert_eq!(vault.pending().is_empty(), vault.name.is_empty());
        prop_assert!(vault.unreachable.is_none() || !vault.name.is_empty());
    }

    /// A VM that claimed a revision from the future used to be left out of all up to that one.
    #[test]
    fn a_cloud_hands_its_policy_to_every_vm_that_has_not_taken_it(
        commands in proptest::collection::vec(cloud_command(), 0..60)
    ) {
        let mut cloud: cloud::Cloud = tell(&commands);
        for _ in 0..2 {
            for cloud::Effect::HandPolicy { vm, revision } in cloud.pending() {
                let taken = cloud::Command::ReportPolicyTaken { vm, revision };
                for event in cloud.decide(&taken, now(0)).unwrap() {
                    cloud.apply(&event, now(0));
                }
            }
            prop_assert_eq!(cloud.pending(), vec![]);
            if cloud.name.is_empty() {
                break;
            }
            let copy_frequency_s = if cloud.policy.copy_frequency_s == 7 { 8 } else { 7 };
            let policy = Policy { copy_frequency_s, ..Policy::default() };
            let command = cloud::Command::AssociatePolicy { policy };
            for event in cloud.decide(&command, now(0)).unwrap() {
                cloud.apply(&event, now(0));
            }
            prop_assert_eq!(cloud.pending().len(), cloud.vms.len());
        }
    }
}

#[test]
fn nothing_is_created_without_a_name() {
    let refused = |answer: Result<usize, Rejection>| {
        assert!(matches!(answer, Err(Rejection::OutOfRange { what: "name", .. })), "{answer:?}");
    };
    let name = String::new();
    let command = vault::Command::Create { id: vault(), name: name.clone() };
    refused(vault::Vault::default().decide(&command, now(0)).map(|events| events.len()));
    let command = host::Command::Register {
        id: HostId::default(),
        name: name.clone(),
        cloud: CloudId::default(),
    };
    refused(host::Host::default().decide(&command, now(0)).map(|events| events.len()));
    let command = cloud::Command::Create { id: CloudId::default(), name };
    refused(cloud::Cloud::default().decide(&command, now(0)).map(|events| events.len()));
}

/// Told at second 1, a key is good for the five days after it, and for one.
#[test]
fn a_registration_key_admits_one_and_only_for_five_days() {
    let mut vault: vault::Vault = tell(&[
        vault::Command::Create { id: vault(), name: "vault-1".to_owned() },
        vault::Command::IssueRegistrationKey { digest: "k".to_owned() },
    ]);
    let refused = |vault: &vault::Vault, n, step| {
        let answer = vault.decide(&use_key("k", n), now(step));
        let Err(Rejection::KeyRefused { because }) = answer else { panic!("{answer:?}") };
        because
    };
    let five_days = 5 * 24 * 3600;
    assert!(refused(&vault, 1, five_days + 1).starts_with("expired at"));
    let admitted = vault.decide(&use_key("k", 1), now(five_days)).unwrap();
    assert_eq!(admitted.len(), 1);
    for event in &admitted {
        vault.apply(event, now(five_days));
    }
    assert_eq!(vault.decide(&use_key("k", 1), now(five_days + 1)), Ok(vec![]), "it is already");
    assert!(refused(&vault, 2, five_days).starts_with("was used by host-1 at"));
    let answer = vault.decide(&use_key("l", 2), now(2));
    assert!(matches!(answer, Err(Rejection::KeyRefused { .. })), "none of its own: {answer:?}");
}

#[test]
fn only_members_of_one_cluster_share_it() {
    let member = |n, cluster: Option<&str>| -> host::Host {
        tell(&[
            host::Command::Register {
                id: HostId(Uuid::from_u128(n)),
                name: format!("host-{n}"),
                cloud: CloudId::default(),
            },
            host::Command::JoinCluster { cluster: cluster.map(str::to_owned) },
        ])
    };
    let blue = member(1, Some("blue"));
    assert!(blue.shares_cluster_with(&member(2, Some("blue"))));
    assert!(!blue.shares_cluster_with(&blue), "it moves nowhere");
    for other in [member(3, Some("red")), member(4, None)] {
        assert!(!blue.shares_cluster_with(&other) && !other.shares_cluster_with(&blue));
    }
    assert!(!member(5, None).shares_cluster_with(&member(6, None)), "none is no cluster");
}

#[test]
fn a_host_does_not_change_its_cloud() {
    let register = |cloud| host::Command::Register {
        id: HostId(Uuid::from_u128(1)),
        name: "host-1".to_owned(),
        cloud: CloudId(Uuid::from_u128(cloud)),
    };
    let host: host::Host = tell(&[register(1)]);
    let answer = host.decide(&register(2), now(1));
    assert!(matches!(answer, Err(Rejection::Conflict { difference: "cloud", .. })));
}

#[test]
fn a_policy_out_of_range_is_refused() {
    let outside = [
        Policy { copy_frequency_s: 0, ..Policy::default() },
        Policy { copy_frequency_s: 901, ..Policy::default() },
        Policy { recovery_point_retention_h: 73, ..Policy::default() },
        Policy { app_consistent_frequency_h: 13, ..Policy::default() },
        // Each is let go before the next is made.
        Policy {
            recovery_point_retention_h: 0,
            app_consistent_frequency_h: 12,
            ..Policy::default()
        },
        Policy {
            recovery_point_retention_h: 4,
            app_consistent_frequency_h: 4,
            ..Policy::default()
        },
    ];
    for policy in outside {
        assert!(matches!(policy.check(), Err(Rejection::OutOfRange { .. })), "{policy:?}");
    }
    let most = Policy {
        recovery_point_retention_h: 13,
        app_consistent_frequency_h: 12,
        ..Policy::default()
    };
    let none = Policy {
        recovery_point_retention_h: 0,
        app_consistent_frequency_h: 0,
        ..Policy::default()
    };
    assert_eq!((most.check(), none.check()), (Ok(()), Ok(())));
    let cloud = cloud::Cloud::default();
    let answer = cloud.decide(&cloud::Command::AssociatePolicy { policy: outside[0] }, now(0));
    assert!(matches!(answer, Err(Rejection::Unknown { .. })), "before it is created");
}

#[test]
fn a_policy_given_by_hand_outlives_a_start_until_the_configuration_has_another() {
    let every = |copy_frequency_s| Policy { copy_frequency_s, ..Policy::default() };
    let mut cloud = cloud::Cloud::default();
    let mut tell = |command: cloud::Command| {
        let events = cloud.decide(&command, now(0)).unwrap();
        for event in &events {
            cloud.apply(event, now(0));
        }
        (cloud.policy.copy_frequency_s, cloud.revision)
    };
    let configure = |seconds| cloud::Command::ConfigurePolicy { policy: every(seconds) };
    tell(cloud::Command::Create { id: CloudId(Uuid::from_u128(3)), name: "cloud-1".to_owned() });
    assert_eq!(tell(configure(300)), (300, 1));
    assert_eq!(tell(configure(300)), (300, 1));
    assert_eq!(tell(cloud::Command::AssociatePolicy { policy: every(30) }), (30, 2));
    assert_eq!(tell(configure(300)), (30, 2), "the service started anew");
    assert_eq!(tell(configure(600)), (600, 3), "with another configuration");
    assert_eq!(tell(cloud::Command::AssociatePolicy { policy: every(30) }), (30, 4));
    assert_eq!(tell(configure(30)), (30, 4), "it says what somebody had said already");
}
