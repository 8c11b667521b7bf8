use super::*;
use crate::pcr::PcrIndex;

fn leaf(n: u8) -> Digest {
    Sha256Digest::of(&[n]).into()
}

#[test]
fn both_ways_to_a_pcr_policy_agree() {
    let values: PcrBank =
        PcrIndex::all().map(|pcr| (pcr, Sha256Digest::of(&[pcr.get()]))).collect();
    let selection = PcrSelection::sha256(&[0, 1, 8, 9, 15]).unwrap();
    let short = pcr_digest(&selection, &values).unwrap();
    let long = Policy::new(Algorithm::Sha256).pcr(&[(selection, &values)]).unwrap();
    assert_eq!(Digest::from(short), long.digest());
}

#[test]
fn a_selected_pcr_without_value_is_refused() {
    let selection = PcrSelection::sha256(&[0, 1]).unwrap();
    let values: PcrBank = [(PcrIndex::new(0).unwrap(), Sha256Digest::ZERO)].into_iter().collect();
    assert!(pcr_digest(&selection, &values).is_err());
}

#[test]
fn or_takes_two_to_eight_branches() {
    let branches: Vec<_> = (0..9).map(leaf).collect();
    let or = |n| Policy::new(Algorithm::Sha256).or(&branches[..n]);
    for n in 0..10 {
        if n <= 9 {
            assert_eq!(or(n).is_ok(), (2..=8).contains(&n), "{n}");
        }
    }
    let mixed = [leaf(0), Digest::filled(Algorithm::Sha384, 0)];
    assert!(matches!(
        Policy::new(Algorithm::Sha256).or(&mixed),
        Err(PolicyError::OtherAlgorithm { .. })
    ));
    assert!(OrTree::new(&branches[..1]).is_err());
}

#[test]
fn a_small_tree_is_one_or() {
    let branches: Vec<_> = (0..8).map(leaf).collect();
    let tree = OrTree::new(&branches).unwrap();
    assert_eq!(tree.digest(), Policy::new(Algorithm::Sha256).or(&branches).unwrap().digest());
}

#[test]
fn every_leaf_of_a_tree_reaches_the_root() {
    for count in [2, 3, 8, 9, 15, 16, 17, 63, 64, 65, 73, 200] {
        let branches: Vec<_> = (0..count).map(|n| leaf(n as u8)).collect();
        let tree = OrTree::new(&branches).unwrap();
        for (n, branch) in branches.iter().enumerate() {
            let mut session = Policy::from_digest(*branch);
            let path = tree.path(n);
            assert!(!path.is_empty());
            for group in path {
                // The TPM refuses a session whose digest is not in the list.
                assert!(group.contains(&session.digest()), "{n} of {count}");
                session = session.or(group).unwrap();
            }
            assert_eq!(session.digest(), tree.digest(), "{n} of {count}");
        }
        assert!(tree.path(branches.len()).is_empty());
    }
}

#[test]
fn names_and_buffers_are_checked() {
    let policy = Policy::new(Algorithm::Sha256);
    let name = [&[0x00, 0x0b][..], &[7; 32]].concat();
    assert!(policy.authorize(&name, b"").is_ok());
    assert!(policy.authorize(&[0x40, 0, 0, 1], b"").is_ok());
    for bad in [&b""[..], &name[..33], &[0x00, 0x0c][..]] {
        assert!(matches!(policy.authorize(bad, b""), Err(PolicyError::NotAName(_))));
        assert!(matches!(
            policy.nv(bad, b"", 0, NvOperation::Equal),
            Err(PolicyError::NotAName(_))
        ));
    }
    assert!(matches!(policy.authorize(&name, &[0; 65]), Err(PolicyError::TooLong { .. })));
    assert!(matches!(
        policy.nv(&name, &[0; 65], 0, NvOperation::Equal),
        Err(PolicyError::TooLong { .. })
    ));
}

#[test]
fn operations_are_numbered_as_the_specification_does() {
    for (number, (operation, _)) in NvOperation::ALL.iter().enumerate() {
        assert_eq!(*operation as usize, number);
    }
}
