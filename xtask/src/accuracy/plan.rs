//! The vocabulary of the table: what is injected, where it must show, and which requests it hits. What was really done
//! to whom stands in the [`ledger`](super::ledger).

use std::sync::OnceLock;
use std::time::Duration;

use super::ledger::{Ledger, now_ns};
use super::machine::spin;

/// Where an injected delay must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In that phase of the request.
    Phase(&'static str),
    /// In these phases together, wherever it hit.
    Phases(&'static [&'static str]),
    /// In that attribute beside the sum, microseconds.
    Attribute(&'static str),
    /// Counted in that attribute, at least once; otherwise not at all.
    Count(&'static str),
    /// Nowhere, for that reason: then nobody may be blamed for it.
    Nowhere(&'static str),
    /// Not in these phases: they are somebody's who had nothing to do with it.
    Not(&'static [&'static str]),
}

/// What divides the wait for a backend whose own end is seen, in the order of its points.
pub(crate) const DIVIDED: [&str; 4] = ["upstream_path_out", "backend_pickup", "backend_app", "upstream_path_back"];

/// Phases and whom they blame, as docs/phases.md has them.
pub(super) const BLAMES: [(&str, &str); 24] = [
    ("accept_wait", "proxy_queue"),
    ("client_send", "client"),
    ("read_wait", "proxy_queue"),
    ("pipeline_wait", "client"),
    ("proxy_request", "proxy"),
    ("middleware_wait", "auth"),
    ("retry_wait", "upstream"),
    ("pool_wait", "proxy"),
    ("upstream_dns", "upstream_network"),
    ("upstream_connect", "upstream_network"),
    ("upstream_tls", "upstream_network"),
    ("upstream_write", "proxy"),
    ("upstream_path_out", "upstream_network"),
    ("backend_pickup", "backend_queue"),
    ("backend_app", "backend"),
    ("upstream_path_back", "upstream_network"),
    ("upstream_wait", "upstream"),
    ("upstream_read_wait", "proxy_queue"),
    ("proxy_response", "proxy"),
    ("upstream_body", "backend"),
    ("client_drain", "client"),
    ("client_body", "client"),
    ("upstream_drain", "backend"),
    ("tunnel", "upstream"),
];

/// Whom a phase blames.
pub(super) fn blame_of(phase: &str) -> Option<&'static str> {
    BLAMES.iter().find(|(name, _)| *name == phase).map(|(_, blame)| *blame)
}

/// One of the two relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Between the clients and the agent.
    Client,
    /// Between the agent and the backends.
    Backend,
}

/// Which way packets go, seen from who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As requests do.
    Out = 0,
    /// As responses do.
    Back = 1,
}

/// Which packets of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The SYN, or the SYN-ACK.
    Handshake,
    /// The same, sent again.
    HandshakeAgain,
    /// The ACK that ends the handshake.
    FinalAck,
    /// The n-th segment with payload of a request or response, from 0; what was sent again does not count.
    Data(u32),
    /// Every packet while the request is under way.
    All,
}

impl Which {
    /// They belong to a connection, not to a request.
    pub(super) fn is_of_handshake(self) -> bool {
        matches!(self, Self::Handshake | Self::HandshakeAgain | Self::FinalAck)
    }
}

/// What a relay does to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Keeps each for the injection's delay. Later ones of that connection wait behind it.
    Hold,
    /// Keeps each for a time of its own, up to the injection's delay.
    Jitter,
    /// Loses them once; the delay is what the sender makes of it.
    Lose,
    /// Lets so many bytes a second pass.
    Rate(u64),
}

impl Place {
    /// Whether that phase is in it.
    pub(super) fn has(self, phase: &str) -> bool {
        match self {
            Self::Phase(name) => name == phase,
            Self::Phases(names) => names.contains(&phase),
            Self::Attribute(_) | Self::Count(_) | Self::Nowhere(_) | Self::Not(_) => false,
        }
    }
}

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The backend works for that long.
    BackendCode,
    /// The backend works for that long on the agent's only core, which it takes as soon as it is woken: within the agent's write.
    BackendOnCore,
    /// The backend lets a readable request lie.
    BackendRead,
    /// The backend lets a connection lie unaccepted, with the request in it.
    BackendAccept,
    /// The backend pauses before each further chunk of its response.
    BackendChunks,
    /// The backend works for that long, and answers a request of whose parts it has the first; the client sends the others when it has
    /// the answer.
    BackendEarly,
    /// The backend closes a reused connection without an answer, after that long.
    BackendReset,
    /// The backend has read a request and does not answer it.
    BackendSilent,
    /// The client goes away while the backend works.
    ClientGone,
    /// The client sends the end of its head while the response before it is made.
    Pipelined,
    /// The backend stops reading an upload until its window is shut, and then for that long.
    BackendUnread,
    /// The client pauses within its greeting of TLS.
    ClientHello,
    /// The service that a middleware asks pauses before its answer.
    Called,
    /// Another request holds the only connection that there may be.
    Capped,
    /// The client pauses within the request's head.
    ClientHead,
    /// The client pauses before each further part of its body.
    ClientBody,
    /// The client stops reading until the window is shut, and then for that long.
    ClientRead,
    /// The agent is stopped when the request comes.
    StopBeforeRequest,
    /// The agent is stopped when a connection comes, and goes on before the request does.
    StopBeforeConnection,
    /// The agent is stopped when the response comes.
    StopBeforeResponse,
    /// The agent is stopped while a response's body comes: its chunks but the first, each a segment of its own.
    StopWithinDownload,
    /// The same of an upload's parts.
    StopWithinUpload,
    /// The agent is stopped when a client that does not read has left it no room; then the client reads what is there.
    StopWithoutRoom,
    /// Something more urgent takes the agent's only core.
    Hog,
    /// The worker is at another request's costly path when this one comes.
    Busy,
    /// The same for all requests; meanwhile something more urgent takes the agent's only core.
    Preempted,
    /// Many others compete for the agent's only core; the kernel's own account of its waiting is the truth.
    Crowd,
    /// A relay does it.
    Wire(Link, Way, Which, Act),
}

/// One kind of disturbance of a row.
#[derive(Clone, Debug)]
pub(super) struct Injection {
    pub(super) how: How,
    /// Microseconds, from and to.
    pub(super) delay_us: (u64, u64),
    /// Each holds all of it.
    pub(super) places: Vec<Place>,
    /// Of a hundred requests so many are disturbed.
    pub(super) share: u64,
}

/// How a connection to the agent or a backend comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Directly, or through a relay.
    Direct,
    Relayed,
}

/// How long clients' connections live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// One for all requests of a client.
    Kept,
    /// One for each request, open until the row ends.
    Fresh,
    /// One for each request, closed with the response.
    Short,
}

/// What an undisturbed request of the row looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// How clients reach the agent.
    pub(super) client: Route,
    /// How the agent reaches the backend.
    pub(super) backend: Route,
    /// How long clients' connections live.
    pub(super) client_life: Life,
    /// Clients speak TLS.
    pub(super) tls: bool,
    /// Each request has a connection of its own to the backend.
    pub(super) backend_fresh: bool,
    /// The backend whose connections are accepted by a thread that may be late.
    pub(super) late_acceptor: bool,
    /// The backend that has little room for what it receives.
    pub(super) cramped: bool,
    /// A middleware asks another service first.
    pub(super) asks: bool,
    /// There is one connection to the backend at most.
    pub(super) capped: bool,
    /// A response has to begin within a time.
    pub(super) limited: bool,
    /// The head comes in two segments.
    pub(super) split_head: bool,
    /// Bytes of the request's body, in so many parts.
    pub(super) upload: (usize, usize),
    /// Bytes of the response's body, in so many chunks; one is sent with its length.
    pub(super) download: (usize, usize),
    /// Clients at once, each with one request at a time.
    pub(super) lanes: u64,
    /// Send buffers of the agent's new connections at most; what lies in them is sent, as the agent sees it.
    pub(super) send_buffer: Option<usize>,
    /// What the injector cannot know of when a delay began or ended, microseconds.
    pub(super) unknown_us: u64,
    /// What an undisturbed request shows in these phases and attributes, a disturbed one shows in the place.
    pub(super) moved: &'static [&'static str],
    /// It is delayed while its earlier parts are worked on: what the agent does meanwhile hides so much of the delay.
    pub(super) streamed: bool,
}

impl Shape {
    /// A small GET over kept connections, nothing relayed.
    pub(super) const SMALL: Self = Self {
        client: Route::Direct,
        backend: Route::Direct,
        client_life: Life::Kept,
        tls: false,
        backend_fresh: false,
        late_acceptor: false,
        cramped: false,
        asks: false,
        capped: false,
        limited: false,
        split_head: false,
        upload: (0, 1),
        download: (100, 1),
        lanes: 1,
        send_buffer: None,
        unknown_us: 0,
        moved: &[],
        streamed: false,
    };
}

/// What the agent is told about probes, and where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Agent {
    /// The probes of our sockets and of backends.
    Watching,
    /// Also what clients acknowledge.
    Acking,
    /// Backends are not looked for, as if they were on other nodes.
    Elsewhere,
    /// `probes: off`.
    Blind,
    /// `probes.timestamps`, without the rights that probes need.
    Stamped,
    /// As usual, with one worker on one core.
    Pinned,
    /// The same, no more urgent than others.
    Ordinary,
}

impl Agent {
    /// Whether it has one core only.
    pub(super) fn is_pinned(self) -> bool {
        matches!(self, Self::Pinned | Self::Ordinary)
    }
}

/// What `wayspan.coverage` must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    /// `full`; on a new connection to a backend also that its accept was not visible, where it was later than the request.
    Full,
    /// Of disturbed requests that the accept was not visible, else as above.
    Unaccepted,
    /// That text.
    Text(&'static str),
    /// That text; of disturbed requests the other, which others may say too: they come after such a one.
    Texts(&'static str, &'static str),
}

/// A line of the table, stated beforehand.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    /// What is done, in words.
    pub(super) injected: &'static str,
    pub(super) agent: Agent,
    pub(super) shape: Shape,
    pub(super) injections: Vec<Injection>,
    /// What `wayspan.coverage` must say.
    pub(super) coverage: Coverage,
    /// Of the requests that the mode asks for, so many of a hundred: what takes a second each is asked less often.
    pub(super) percent: u64,
}

/// Requests with this number or a higher one are not judged.
pub(super) const JUDGED_MAX: u64 = 1 << 40;

/// The request that holds the connection, or keeps its client's next one waiting, for another has that one's number and this more.
pub(super) const HOLDS: u64 = JUDGED_MAX << 1;

/// A row under way: what its injectors share.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) row: Row,
    pub(super) seed: u64,
    pub(super) ledger: Ledger,
    /// What backends write first, made once: making megabytes takes a core for milliseconds.
    pub(super) response: OnceLock<Vec<u8>>,
}

impl Running {
    /// The injection of that kind and its delay for a request, or for whatever `number` counts, if it is chosen.
    pub(super) fn chosen(&self, how: How, number: u64) -> Option<(usize, Duration)> {
        let index = self.index(how)?;
        Some((index, self.delay(index, number)?))
    }

    /// Pauses for a request that is chosen, and accounts for the time since then, chosen or not; until when.
    pub(super) fn pause(&self, how: How, request: u64, from_ns: u64) -> Option<(usize, u64)> {
        let index = self.index(how)?;
        let delay = self.delay(index, request);
        if let Some(delay) = delay {
            if how == How::BackendOnCore { spin(delay) } else { std::thread::sleep(delay) }
        }
        let to_ns = now_ns();
        self.ledger.add(request, index, delay.is_some(), from_ns, to_ns);
        Some((index, to_ns))
    }

    /// Where the injection of that kind stands in the row.
    pub(super) fn index(&self, how: How) -> Option<usize> {
        self.row.injections.iter().position(|injection| injection.how == how)
    }

    /// How long that injection delays a request, if at all. The same for the same seed.
    pub(super) fn delay(&self, index: usize, number: u64) -> Option<Duration> {
        let injection = self.row.injections.get(index).filter(|_| number < JUDGED_MAX)?;
        let name = self.row.name.bytes().fold(self.seed, |sum, byte| mixed(sum ^ u64::from(byte)));
        let random = mixed(mixed(name ^ index as u64) ^ number);
        let (from, to) = injection.delay_us;
        (random % 100 < injection.share).then(|| Duration::from_micros(from + (random >> 32) % (to - from + 1)))
    }
}

/// splitmix64's finish: a bijection whose outputs look independent.
pub(super) fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_blames_are_those_of_the_documentation() {
        let text = std::fs::read_to_string(wayspan_tests::root().join("docs/phases.md")).unwrap();
        for (phase, blame) in BLAMES {
            let row = text.lines().find(|line| line.starts_with(&format!("| `{phase}` |")));
            if let Some(row) = row {
                assert_eq!(row.split('|').nth(3).map(str::trim), Some(blame), "{phase}");
            } else {
                assert!(text.contains(&format!("`{phase}`")), "{phase} is not documented");
            }
        }
    }

    #[test]
    fn the_same_seed_chooses_the_same_requests_and_about_as_many_as_said() {
        let row = Row {
            name: "a row".to_owned(),
            injected: "",
            agent: Agent::Watching,
            shape: Shape::SMALL,
            injections: vec![Injection {
                how: How::BackendCode,
                delay_us: (1000, 2000),
                places: vec![Place::Phase("upstream_wait")],
                share: 30,
            }],
            coverage: Coverage::Full,
            percent: 100,
        };
        let chosen = |seed| {
            let running = Running { row: row.clone(), seed, ledger: Ledger::default(), response: OnceLock::new() };
            (0..1000).filter_map(|id| Some((id, running.chosen(How::BackendCode, id)?.1))).collect::<Vec<_>>()
        };
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
        assert!((200..400).contains(&chosen(1).len()), "{}", chosen(1).len());
        let range = Duration::from_micros(1000)..=Duration::from_micros(2000);
        assert!(chosen(1).iter().all(|(_, delay)| range.contains(delay)));
    }
}
