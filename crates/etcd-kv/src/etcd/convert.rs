//! Between the model and the wire.

use super::proto;
use super::proto::{compare_result as cr, compare_target as ct};
use crate::error::KvError;
use crate::model::{
    Compare, Condition, DeleteReply, Event, KeyValue, Lease, Member, Op, OpReply, Order, PutReply,
    Range, RangeReply, Txn, TxnReply,
};

pub(super) fn range_request(range: &Range) -> proto::RangeRequest {
    let (key, range_end) = range.keys.to_wire();
    let (sort_order, sort_target) = match range.order {
        Order::Key => (0, 0),
        // ASCEND by CREATE.
        Order::Created => (1, 2),
    };
    proto::RangeRequest {
        key,
        range_end,
        limit: range.limit.unwrap_or(0),
        revision: range.revision.unwrap_or(0),
        sort_order,
        sort_target,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
    }
}

pub(super) fn range_reply(a: proto::RangeResponse) -> RangeReply {
    RangeReply {
        revision: revision(a.header.as_ref()),
        kvs: a.kvs.into_iter().map(key_value).collect(),
        more: a.more,
        count: a.count,
    }
}

pub(super) fn txn_request(txn: &Txn) -> proto::TxnRequest {
    proto::TxnRequest {
        compare: txn.when.iter().map(compare).collect(),
        success: txn.then.iter().map(request_op).collect(),
        failure: txn.otherwise.iter().map(request_op).collect(),
    }
}

fn compare(c: &Compare) -> proto::Compare {
    let mut out = proto::Compare {
        key: c.key.clone(),
        ..Default::default()
    };
    match &c.condition {
        Condition::Version(v) => {
            (out.result, out.target, out.version) = (cr::EQUAL, ct::VERSION, Some(*v));
        }
        Condition::VersionAbove(v) => {
            (out.result, out.target, out.version) = (cr::GREATER, ct::VERSION, Some(*v));
        }
        Condition::Created(r) => {
            (out.result, out.target, out.create_revision) = (cr::EQUAL, ct::CREATE, Some(*r));
        }
        Condition::Modified(r) => {
            (out.result, out.target, out.mod_revision) = (cr::EQUAL, ct::MOD, Some(*r));
        }
        Condition::ModifiedBefore(r) => {
            (out.result, out.target, out.mod_revision) = (cr::LESS, ct::MOD, Some(*r));
        }
        Condition::Value(v) => {
            (out.result, out.target, out.value) = (cr::EQUAL, ct::VALUE, Some(v.clone()));
        }
        Condition::ValueNot(v) => {
            (out.result, out.target, out.value) = (cr::NOT_EQUAL, ct::VALUE, Some(v.clone()));
        }
        Condition::Lease(l) => {
            (out.result, out.target, out.lease) =
                (cr::EQUAL, ct::LEASE, Some(l.map_or(0, |l| l.0)));
        }
    }
    out
}

fn request_op(op: &Op) -> proto::RequestOp {
    let mut out = proto::RequestOp::default();
    match op {
        Op::Range(range) => out.range = Some(range_request(range)),
        Op::Put {
            key,
            value,
            lease,
            previous,
        } => {
            out.put = Some(proto::PutRequest {
                key: key.clone(),
                value: value.clone(),
                lease: lease.map_or(0, |l| l.0),
                prev_kv: *previous,
            });
        }
        Op::Delete { keys, previous } => {
            let (key, range_end) = keys.to_wire();
            out.delete = Some(proto::DeleteRangeRequest {
                key,
                range_end,
                prev_kv: *previous,
            });
        }
    }
    out
}

pub(super) fn txn_reply(a: proto::TxnResponse) -> Result<TxnReply, KvError> {
    let at = revision(a.header.as_ref());
    let reply = |op: proto::ResponseOp| match op {
        proto::ResponseOp {
            range: Some(mut r), ..
        } => {
            // Inner answers carry no revision of their own worth having.
            r.header = a.header.clone();
            Ok(OpReply::Range(range_reply(r)))
        }
        proto::ResponseOp { put: Some(p), .. } => Ok(OpReply::Put(PutReply {
            revision: at,
            previous: p.prev_kv.map(key_value),
        })),
        proto::ResponseOp {
            delete: Some(d), ..
        } => Ok(OpReply::Delete(DeleteReply {
            revision: at,
            deleted: d.deleted,
            previous: d.prev_kvs.into_iter().map(key_value).collect(),
        })),
        _ => Err(KvError::Malformed {
            what: "write",
            reason: "an operation of the transaction has no answer".into(),
        }),
    };
    Ok(TxnReply {
        succeeded: a.succeeded,
        revision: at,
        replies: a
            .responses
            .into_iter()
            .map(reply)
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn key_value(kv: proto::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: Lease::from_wire(kv.lease),
    }
}

pub(super) fn event(e: proto::Event) -> Event {
    let previous = e.prev_kv.map(key_value);
    let kv = key_value(e.kv.unwrap_or_default());
    if e.kind == proto::EVENT_DELETE {
        Event::Delete {
            key: kv.key,
            revision: kv.mod_revision,
            previous,
        }
    } else {
        Event::Put { kv, previous }
    }
}

pub(super) fn member(m: proto::Member) -> Member {
    Member {
        id: m.id,
        name: m.name,
        peer_urls: m.peer_urls,
        client_urls: m.client_urls,
        learner: m.is_learner,
    }
}

fn revision(header: Option<&proto::Header>) -> i64 {
    header.map_or(0, |h| h.revision)
}

/// A status other than OK and "unavailable", as an error a caller can act on.
pub(super) fn status_error(what: &'static str, code: u32, message: String) -> KvError {
    match code {
        11 if message.contains("compacted") => KvError::Compacted { oldest: 0 },
        11 if message.contains("future revision") => KvError::FutureRevision,
        5 if message.contains("lease not found") => KvError::LeaseNotFound { lease: Lease(0) },
        9 if message.contains("lease already exists") => KvError::LeaseExists { lease: Lease(0) },
        3 if message.contains("authentication failed")
            || message.contains("user name is empty") =>
        {
            KvError::Denied { what, message }
        }
        7 | 16 => KvError::Denied { what, message },
        _ => KvError::Rejected {
            what,
            code,
            message,
        },
    }
}

/// Fills in which lease an error is about.
pub(super) fn lease_error(error: KvError, lease: Lease) -> KvError {
    match error {
        KvError::LeaseNotFound { .. } => KvError::LeaseNotFound { lease },
        KvError::LeaseExists { .. } => KvError::LeaseExists { lease },
        other => other,
    }
}
