use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use proptest::prelude::*;

use super::*;

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    vote_in(peer::Vote { term, node, committed })
}

fn id(term: u64, index: u64) -> Id {
    raft_id(LogId { term, index })
}

fn append() -> AppendEntriesRequest<Types> {
    let members =
        members_in(Membership { voters: vec![vec![1, 2], vec![2, 3]], learners: vec![9] });
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(EntryBody { flags: 0, bytes: Bytes::from_static(b"tide") }),
        EntryPayload::Membership(members.expect("a membership")),
    ];
    let entries = payloads.into_iter().zip(8..);
    AppendEntriesRequest {
        vote: vote(5, 3, true),
        prev_log_id: Some(id(4, 7)),
        leader_commit: Some(id(4, 6)),
        entries: entries
            .map(|(payload, index)| StoredEntry { log_id: id(5, index), payload })
            .collect(),
    }
}

fn offer() -> Offer {
    let members = members_in(Membership { voters: vec![vec![1, 2, 3]], learners: vec![4] });
    let members = members.expect("a membership");
    Offer {
        transfer: 7,
        vote: vote(5, 3, true),
        meta: Meta {
            last_log_id: Some(id(4, 100)),
            last_membership: StoredMembership::new(Some(id(2, 50)), members),
        },
        name: "4-64-0badcafe-3e8".into(),
        bytes: 1_000,
    }
}

#[test]
fn what_is_sent_is_what_comes_in() {
    for group in [0, 255, META] {
        let read = append_in(3, group, &append_out(group, append())).expect("ours");
        let wrote = append();
        assert_eq!((read.vote, read.prev_log_id), (wrote.vote, wrote.prev_log_id));
        assert_eq!((read.leader_commit, read.entries), (wrote.leader_commit, wrote.entries));

        let mut request = VoteRequest::new(vote(6, 3, false), Some(id(5, 9)));
        request.leadership_transfer = true;
        let body = vote_request_out(group, &request, true);
        assert_eq!(vote_request_in(3, group, &body), Ok((request, true)));

        let reply = VoteResponse::new(vote(6, 2, true), Some(id(5, 9)), false);
        let body = vote_reply_out(group, &reply);
        assert_eq!(vote_reply_in(group, &body), Ok(reply));

        let request = TransferLeaderRequest::new(vote(6, 3, true), 2, Some(id(5, 9)));
        let body = transfer_out(group, &request);
        assert_eq!(transfer_in(3, group, &body), Ok(request));

        let read = Offer::decode(3, group, &offer().encode(group)).expect("ours");
        assert_eq!((read.meta, read.name), (offer().meta, offer().name));
        assert_eq!((read.vote, read.bytes, read.transfer), (offer().vote, 1_000, 7));
    }
}

#[test]
fn nobody_speaks_for_another_node_or_group() {
    let append = append_out(1, append());
    assert_eq!(append_in(4, 1, &append).err(), Some(WireError::Sender { from: 4, node: 3 }));
    assert_eq!(append_in(3, 2, &append).err(), Some(WireError::Group { got: 1, called: 2 }));
    let offer = offer().encode(META);
    assert!(matches!(Offer::decode(4, META, &offer), Err(WireError::Sender { .. })));
    assert!(matches!(Offer::decode(3, 0, &offer), Err(WireError::Group { .. })));
    let request = VoteRequest::new(vote(6, 3, false), None);
    let request = vote_request_out(1, &request, false);
    assert!(matches!(vote_request_in(1, 1, &request), Err(WireError::Sender { .. })));
    assert!(matches!(group_in(peer::Group(256)), Err(WireError::Group { .. })));
}

/// What would make openraft panic, since it asserts what a leader never does.
#[test]
fn what_no_leader_says_is_refused() {
    let mut late = append();
    late.entries[2].log_id = id(6, 10);
    assert!(matches!(append_in(3, 1, &append_out(1, late)), Err(WireError::Order { .. })));
    let mut back = append();
    back.entries[1].log_id = id(3, 9);
    assert!(matches!(append_in(3, 1, &append_out(1, back)), Err(WireError::Order { .. })));
    let mut candidate = append();
    candidate.vote = vote(5, 3, false);
    assert!(append_in(3, 1, &append_out(1, candidate)).is_err());
    let mut ahead = offer();
    ahead.meta.last_log_id = Some(id(6, 100));
    assert!(matches!(Offer::decode(3, 1, &ahead.encode(1)), Err(WireError::Order { .. })));
    let mut large = offer();
    large.bytes = SNAPSHOT_BYTES_MAX + 1;
    assert!(matches!(Offer::decode(3, 1, &large.encode(1)), Err(WireError::TooMuch { .. })));
    let mut long = offer();
    long.name = "x".repeat(SNAPSHOT_NAME_BYTES_MAX + 1);
    assert!(matches!(Offer::decode(3, 1, &long.encode(1)), Err(WireError::TooMuch { .. })));
    assert!(members_in(Membership { voters: vec![vec![1]; 3], learners: vec![] }).is_err());
    assert!(members_in(Membership { voters: vec![vec![]], learners: vec![1] }).is_err());
    let many = (0..=MEMBERS_MAX as u64).collect();
    assert!(members_in(Membership { voters: vec![vec![1]], learners: many }).is_err());
}

#[test]
fn an_answer_is_held_against_what_was_sent() {
    let (prev, last) = (Some(id(4, 7)), Some(id(5, 10)));
    let ack = |outcome, matched: Option<Id>| peer::AppendAck {
        outcome,
        matched: matched.as_ref().map(id_out),
        ..peer::AppendAck::default()
    };
    let read = |ack: peer::AppendAck| ack_in(&ack, prev, last);
    assert_eq!(read(ack(peer::AppendOutcome::Taken, None)), Ok(Ok(last)));
    let part = Some(id(5, 8));
    assert_eq!(read(ack(peer::AppendOutcome::Partly, part)), Ok(Ok(part)));
    assert!(read(ack(peer::AppendOutcome::Partly, Some(id(5, 11)))).is_err());
    assert!(read(ack(peer::AppendOutcome::Partly, Some(id(4, 6)))).is_err());
    let conflict = Ok(Err(StreamAppendError::Conflict(id(4, 7))));
    assert_eq!(read(ack(peer::AppendOutcome::Conflict, None)), conflict);
    assert!(ack_in(&ack(peer::AppendOutcome::Conflict, None), None, last).is_err());
}

/// All that reads what came from another node.
fn read_all(body: &Bytes) {
    let _ = append_in(3, 1, body);
    let _ = vote_request_in(3, 1, body);
    let _ = vote_reply_in(1, body);
    let _ = transfer_in(3, 1, body);
    let _ = Offer::decode(3, 1, body);
    let _ = chunk_in(body);
    let _ = snapshot_ack_in(body);
    let _ = members_from(body);
}

fn bodies() -> Vec<Bytes> {
    let request = VoteRequest::new(vote(6, 3, false), Some(id(5, 9)));
    let transfer = TransferLeaderRequest::new(vote(6, 3, true), 2, Some(id(5, 9)));
    vec![
        append_out(1, append()),
        vote_request_out(1, &request, true),
        vote_reply_out(1, &VoteResponse::new(vote(6, 2, true), None, false)),
        transfer_out(1, &transfer),
        offer().encode(1),
        chunk_out(7, 0, Bytes::from_static(b"state"), true),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        read_all(&body.into());
    }

    #[test]
    fn no_change_of_a_message_makes_a_decoder_panic(
        which in 0..6_usize,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut body = bodies()[which].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        read_all(&body.clone().into());
        body.truncate(cut.index(body.len()));
        read_all(&body.into());
    }
}
