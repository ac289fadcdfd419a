//! What is told of a request beside its phases: its connections, the worker's delay, and what was learnt after its end. All
//! times are microseconds; what is not known has no attribute.

use opentelemetry_semantic_conventions::attribute as otel;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::{Attempt, Head, TlsFacts};

use super::names;
use super::proto::Attributes;
use crate::config::model::suite_name;
use crate::merge::coverage::unacknowledged;
use crate::merge::late::RoundTrip;
use crate::merge::phase::{Attributed, rounded_us};

/// Of the client's side.
pub(super) fn of_client(a: &mut Attributes<'_>, request: &Attributed<'_>) {
    let (head, late) = (&request.record.head, &request.late);
    a.int(names::CONNECTION_REQUEST, head.request_index.into());
    if head.request_index == 0 {
        of_handshake(a, request);
    }
    let as_read = RoundTrip { smoothed_us: head.srtt_us, deviation_us: head.rttvar_us };
    let newest = if head.asked_at_end { as_read.or(late.client_rtt) } else { late.client_rtt.or(as_read) };
    round_trip(a, [names::CLIENT_RTT, names::CLIENT_RTTVAR], newest);
    // Behind the response before it nobody would have read it sooner.
    let readable = head.head_readable.known().map_or(MonoNs::UNKNOWN, |at| at.max(head.previous_write));
    delay(a, request, [readable, head.woken, head.head_read], head.preempted_ns);
    // Without the last acknowledgement nobody knows whether the last byte has left by now.
    if let Some(acked) = late.acked.known() {
        if let Some(left) = late.left.known() {
            a.int(names::AFTER_SEND_QUEUE, rounded_us(left.since(request.end)));
        }
        a.int(names::AFTER_ACK, rounded_us(acked.since(request.end)));
    } else if let Some(why) = unacknowledged(late.ack_missing) {
        a.text(names::AFTER_MISSING, why);
    }
    count(a, names::CLIENT_RETRANSMITS, late.client_resent);
    stall(a, names::CLIENT_ZERO_WINDOW, late.client_stalled_ns);
}

/// Of the client's TLS, on each of its requests.
pub(super) fn of_tls(a: &mut Attributes<'_>, head: &Head) {
    let TlsFacts { version, cipher, resumed, .. } = head.tls;
    let version = match version {
        0x0303 => "1.2",
        0x0304 => "1.3",
        // A plain connection.
        _ => return,
    };
    a.text(otel::TLS_PROTOCOL_NAME, "tls");
    a.text(otel::TLS_PROTOCOL_VERSION, version);
    let cipher = suite_name(cipher);
    if !cipher.is_empty() {
        a.text(otel::TLS_CIPHER, cipher);
    }
    a.flag(otel::TLS_RESUMED, resumed);
}

/// Of one attempt; what was learnt after the end is of the last.
pub(super) fn of_attempt(a: &mut Attributes<'_>, request: &Attributed<'_>, attempt: &Attempt, is_last: bool) {
    let as_read = RoundTrip { smoothed_us: attempt.srtt_us, deviation_us: attempt.rttvar_us };
    let later = if is_last { request.late.upstream_rtt } else { RoundTrip::default() };
    round_trip(a, [names::UPSTREAM_RTT, names::UPSTREAM_RTTVAR], later.or(as_read));
    delay(a, request, [attempt.first_readable, attempt.woken, attempt.first_read], attempt.preempted_ns);
    if is_last {
        // The probes' count, or without them the connection's own.
        count(a, names::UPSTREAM_RETRANSMITS, request.late.upstream_resent.max(attempt.resent));
        count(a, names::BACKEND_RETRANSMITS, request.late.backend_resent);
        stall(a, names::UPSTREAM_ZERO_WINDOW, request.late.upstream_stalled_ns);
    }
}

fn of_handshake(a: &mut Attributes<'_>, request: &Attributed<'_>) {
    let (head, late) = (&request.record.head, &request.late);
    if let (Some(accepted), Some(established)) = (head.accepted.known(), head.established.known()) {
        a.int(names::CONNECTION_ACCEPT_WAIT, rounded_us(accepted.since(established)));
    }
    if head.tls.handshake_ns > 0 {
        a.int(names::CONNECTION_TLS_HANDSHAKE, rounded_us(head.tls.handshake_ns));
    }
    // A round trip that was measured over a repetition is none; what it took at least is rounded down.
    if late.handshake_resent_ns > 0 {
        a.int(names::CONNECTION_HANDSHAKE_AT_LEAST, late.handshake_resent_ns / 1000);
    } else if late.handshake_rtt_us > 0 {
        a.int(names::CONNECTION_HANDSHAKE_RTT, late.handshake_rtt_us.into());
    }
}

fn round_trip(a: &mut Attributes<'_>, keys: [&str; 2], of: RoundTrip) {
    if of.smoothed_us > 0 {
        for (key, us) in keys.into_iter().zip([of.smoothed_us, of.deviation_us]) {
            a.int(key, us.into());
        }
    }
}

/// From readable to read: until the worker woke up, where it had been waiting for events, and what it did first, of which it
/// was off the CPU for a part.
fn delay(a: &mut Attributes<'_>, request: &Attributed<'_>, points: [MonoNs; 3], preempted_ns: u64) {
    if points.iter().any(|point| point.known().is_none()) {
        return;
    }
    let [readable, woken, read] = points.map(|point| request.us(point));
    let read = read.max(readable);
    let woken = woken.clamp(readable, read);
    let backlog = read - woken;
    let parts = [
        (names::WORKER_WAKEUP, woken - readable),
        (names::WORKER_BACKLOG, backlog),
        (names::WORKER_PREEMPTED, rounded_us(preempted_ns).min(backlog)),
    ];
    for (key, us) in parts {
        if us > 0 {
            a.int(key, us);
        }
    }
}

fn count(a: &mut Attributes<'_>, key: &str, segments: u32) {
    if segments > 0 {
        a.int(key, segments.into());
    }
}

fn stall(a: &mut Attributes<'_>, key: &str, ns: u64) {
    let us = rounded_us(ns);
    if us > 0 {
        a.int(key, us);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message;
    use wayspan_proxy::observer::Missing;
    use wayspan_proxy::record::{Record, Texts};

    use super::*;
    use crate::export::proto::length_tag;
    use crate::merge::attribute::attribute;
    use crate::merge::late::Late;

    fn at(us: u64) -> MonoNs {
        MonoNs(1_000_000_000 + us * 1000)
    }

    /// A first request that was there before its connection was accepted, and waited on a busy worker.
    fn first() -> (Head, Attempt, Late) {
        let head = Head {
            first_readable: at(0),
            first_read: at(3000),
            established: MonoNs(at(0).0 - 40_000),
            accepted: at(60),
            head_readable: at(0),
            woken: at(50),
            head_read: at(3000),
            preempted_ns: 1_200_000,
            srtt_us: 210,
            rttvar_us: 30,
            head_written: at(9000),
            ended: at(10_000),
            attempts_made: 1,
            ..Head::default()
        };
        let attempt = Attempt {
            begun: at(3100),
            chosen: at(3100),
            head_written: at(3200),
            first_readable: at(8000),
            woken: at(3000),
            first_read: at(8020),
            srtt_us: 55,
            ..Attempt::default()
        };
        let late = Late {
            acked: at(10_700),
            left: at(10_400),
            handshake_rtt_us: 180,
            upstream_resent: 1,
            backend_resent: 2,
            client_resent: 3,
            client_stalled_ns: 4_000_000,
            upstream_stalled_ns: 5_000_000,
            ..Late::default()
        };
        (head, attempt, late)
    }

    /// What is told of the client's side and of the attempt, without `wayspan.`.
    fn check(edit: impl FnOnce(&mut Head, &mut Attempt, &mut Late), client: &str, upstream: &str) {
        let (mut head, mut attempt, mut late) = first();
        edit(&mut head, &mut attempt, &mut late);
        let attempts = vec![attempt];
        let (request_headers, response_headers) = (Vec::new(), Vec::new());
        let record =
            Record { head, attempts, calls: Vec::new(), texts: Texts::default(), request_headers, response_headers };
        let request = Attributed { late, ..attribute(&record) };
        let told = |write: &dyn Fn(&mut Attributes<'_>)| {
            let mut out = Vec::new();
            write(&mut Attributes::new(&mut out, length_tag(1)));
            let attributes = Resource::decode(out.as_slice()).unwrap().attributes.into_iter();
            let texts = attributes.map(|attribute| {
                let value = match attribute.value.and_then(|value| value.value) {
                    Some(Value::IntValue(value)) => value.to_string(),
                    Some(Value::StringValue(text)) => text,
                    other => panic!("{other:?}"),
                };
                format!("{}={value}", attribute.key.strip_prefix("wayspan.").unwrap())
            });
            texts.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&|a| of_client(a, &request)), client);
        assert_eq!(told(&|a| of_attempt(a, &request, &attempt, true)), upstream);
    }

    const CONNECTION: &str = "connection.request_index=0 connection.accept_wait=100 connection.handshake_rtt=180";
    const BESIDE: &str = "client.rtt=210 client.rttvar=30 worker.wakeup=50 worker.backlog=2950 worker.preempted=1200";
    const AFTER: &str = "after.send_queue=400 after.ack=700 client.retransmits=3 client.zero_window=4000";
    const UPSTREAM: &str = "upstream.rtt=55 upstream.rttvar=0 worker.backlog=20 upstream.retransmits=1 backend.retransmits=2 upstream.zero_window=5000";

    #[test]
    fn all_that_is_known_is_told() {
        check(|_, _, _| (), &format!("{CONNECTION} {BESIDE} {AFTER}"), UPSTREAM);
    }

    #[test]
    fn a_round_trip_is_told_as_it_was_last() {
        let later = RoundTrip { smoothed_us: 900, deviation_us: 70 };
        let client = BESIDE.replace("client.rtt=210 client.rttvar=30", "client.rtt=900 client.rttvar=70");
        check(|_, _, l| l.client_rtt = later, &format!("{CONNECTION} {client} {AFTER}"), UPSTREAM);
        // The kernel was asked at the request's end: what was seen last is older, or the next request's.
        let asked = |head: &mut Head, late: &mut Late| (head.asked_at_end, late.client_rtt) = (true, later);
        check(|h, _, l| asked(h, l), &format!("{CONNECTION} {BESIDE} {AFTER}"), UPSTREAM);
        let upstream = UPSTREAM.replace("upstream.rtt=55 upstream.rttvar=0", "upstream.rtt=900 upstream.rttvar=70");
        check(|_, _, l| l.upstream_rtt = later, &format!("{CONNECTION} {BESIDE} {AFTER}"), &upstream);
    }

    #[test]
    fn a_handshake_of_tls_is_told_with_the_connection() {
        let begun =
            CONNECTION.replace(" connection.handshake_rtt", " connection.tls_handshake=1500 connection.handshake_rtt");
        check(|h, _, _| h.tls.handshake_ns = 1_499_600, &format!("{begun} {BESIDE} {AFTER}"), UPSTREAM);
    }

    #[test]
    fn a_connection_is_told_once() {
        check(|h, _, _| h.request_index = 1, &format!("connection.request_index=1 {BESIDE} {AFTER}"), UPSTREAM);
    }

    #[test]
    fn a_handshake_over_a_repetition_is_a_lower_bound() {
        let resent = "connection.request_index=0 connection.accept_wait=100 connection.handshake_at_least=1000499";
        check(|_, _, l| l.handshake_resent_ns = 1_000_499_999, &format!("{resent} {BESIDE} {AFTER}"), UPSTREAM);
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        check(
            |h, a, l| {
                (h.established, h.woken, h.srtt_us) = (MonoNs::UNKNOWN, MonoNs::UNKNOWN, 0);
                (a.first_readable, a.srtt_us) = (MonoNs::UNKNOWN, 0);
                *l = Late::default();
            },
            "connection.request_index=0",
            "",
        );
        // The last byte may wait still.
        check(
            |_, _, l| l.acked = MonoNs::UNKNOWN,
            &format!("{CONNECTION} {BESIDE} client.retransmits=3 client.zero_window=4000"),
            UPSTREAM,
        );
        check(
            |_, _, l| l.left = MonoNs::UNKNOWN,
            &format!("{CONNECTION} {BESIDE} after.ack=700 client.retransmits=3 client.zero_window=4000"),
            UPSTREAM,
        );
    }

    #[test]
    fn why_an_acknowledgement_is_not_known_is_told_where_somebody_looked() {
        for (missing, told) in [
            (Missing::UNSEEN, "acknowledgement unseen"),
            (Missing::OVERWRITTEN, "acknowledgement overwritten"),
            (Missing::NOT_WAITED, "acknowledgement not waited for"),
            (Missing::JOINED_LATE, "request older than the probe"),
            (Missing::REUSED, "client slot reused"),
            (Missing::NO_SLOT, "no slot for the client connection"),
        ] {
            let client =
                format!("{CONNECTION} {BESIDE} after.missing={told} client.retransmits=3 client.zero_window=4000");
            check(|_, _, l| (l.acked, l.ack_missing) = (MonoNs::UNKNOWN, missing), &client, UPSTREAM);
        }
    }

    #[test]
    fn a_worker_that_woke_up_late_is_told_from_one_that_was_busy() {
        let with = |delay: &str| format!("{CONNECTION} client.rtt=210 client.rttvar=30 {delay}{AFTER}");
        check(|h, _, _| h.woken = at(2995), &with("worker.wakeup=2995 worker.backlog=5 worker.preempted=5 "), UPSTREAM);
        check(|h, _, _| h.woken = MonoNs(1), &with("worker.backlog=3000 worker.preempted=1200 "), UPSTREAM);
        check(|h, _, _| h.woken = at(9000), &with("worker.wakeup=3000 "), UPSTREAM);
        check(|h, _, _| h.head_readable = at(3000), &with(""), UPSTREAM);
    }

    #[test]
    fn a_worker_that_served_the_response_before_was_neither_asleep_nor_late() {
        let with = |delay: &str| format!("{CONNECTION} client.rtt=210 client.rttvar=30 {delay}{AFTER}");
        check(
            |h, _, _| (h.previous_write, h.woken) = (at(2960), at(2980)),
            &with("worker.wakeup=20 worker.backlog=20 worker.preempted=20 "),
            UPSTREAM,
        );
        check(|h, _, _| (h.previous_write, h.woken) = (at(3005), at(50)), &with(""), UPSTREAM);
    }

    #[test]
    fn an_acknowledgement_before_the_end_was_stamped_took_no_time() {
        let at_once = "after.send_queue=0 after.ack=0 client.retransmits=3 client.zero_window=4000";
        check(
            |_, _, l| (l.left, l.acked) = (at(9999), at(9999)),
            &format!("{CONNECTION} {BESIDE} {at_once}"),
            UPSTREAM,
        );
    }
}
