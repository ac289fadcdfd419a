//! The machine: its clock, its kernel, and the streams of bytes that come to sockets, of which is known when each byte came. What
//! the kernel cannot be asked for in full is known too, by reason.

use abi::{MARKS, NO_SLOT, ROLE_LISTENER, Tag};
use fastrand::Rng;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{BackendAsk, BackendMarks, Marks, Missing, Token};

use crate::probes::{Kernel, Set, token_of};

const US: u64 = 1000;
/// What a listener's child has where nobody looks.
const LISTENER: Tag = Tag { generation: 0, slot: NO_SLOT, role: ROLE_LISTENER };
const NEVER: MonoNs = MonoNs(u64::MAX);

/// What all connections share.
pub(super) struct Site {
    pub(super) random: Rng,
    pub(super) now: MonoNs,
    pub(super) kernel: Kernel,
    /// A backend's writes are noted when they return.
    pub(super) notes_writes_late: bool,
    /// By set: when it was off, from and to.
    gaps: [Vec<(MonoNs, MonoNs)>; Set::ALL.len()],
    /// Connections of others, which take slots.
    others: Vec<Tag>,
    /// Bytes of a segment at most.
    segment_max: usize,
}

/// One end of a connection, and the bytes that come to it.
pub(super) struct Stream {
    pub(super) tag: Tag,
    pub(super) token: Token,
    pub(super) born: MonoNs,
    /// Stream offset of the first of `bytes`; what came before is nobody's.
    pub(super) base: u64,
    pub(super) bytes: Vec<u8>,
    /// Stream offset behind what has come, and when.
    arrivals: Vec<(u64, MonoNs)>,
    pub(super) is_accepted: bool,
    /// The byte for which the latch was armed before anything of it came.
    armed: Option<u64>,
    armed_to: u64,
    /// Why times may be missing that were asked for.
    overwritten: bool,
}

impl Site {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let now = MonoNs(1_000_000 * US);
        let rest_ns = if random.bool() { 0 } else { random.u64(..300) * US };
        let mut site = Self {
            kernel: Kernel::new(random.u32(1..8), rest_ns),
            now,
            notes_writes_late: random.u8(..4) == 0,
            gaps: Default::default(),
            others: Vec::new(),
            segment_max: if random.bool() { 5 } else { 400 },
            random,
        };
        site.kernel.reader.notes_writes_late(site.notes_writes_late);
        for set in Set::ALL {
            let often = if set == Set::Core { 8 } else { 3 };
            if site.chance(often) {
                site.gaps[set as usize].push((MonoNs(0), NEVER));
            } else {
                site.kernel.switch(set, true, MonoNs(0));
            }
        }
        site
    }

    /// One time in so many.
    pub(super) fn chance(&mut self, of: u32) -> bool {
        self.random.u32(..of) == 0
    }

    /// Some time goes by, in whole microseconds, and now and then something happens elsewhere.
    pub(super) fn pass(&mut self) -> MonoNs {
        self.tick();
        match self.random.u8(..60) {
            0 => self.switches(),
            1 => self.another(),
            2..6 => {
                if let Some(mut tag) = self.others.pop() {
                    self.kernel.destroys(&mut tag, self.now);
                }
            }
            _ => {}
        }
        self.tick()
    }

    /// Somebody else connects, and says something.
    fn another(&mut self) {
        let tag = self.kernel.adopts(LISTENER, self.now);
        self.kernel.establishes(tag, self.now);
        self.kernel.readable(tag, self.random.u64(1..1000), true, self.now);
        self.others.push(tag);
    }

    /// No two things happen at the same time.
    fn tick(&mut self) -> MonoNs {
        self.now = MonoNs(self.now.0 + self.random.u64(1..40) * US);
        self.now
    }

    /// A set is switched while connections live.
    pub(super) fn switches(&mut self) {
        let set = Set::ALL[self.random.usize(..Set::ALL.len())];
        let is_on = self.kernel.is_attached(set);
        if is_on && self.chance(4) {
            self.kernel.switch(set, false, self.now);
            self.gaps[set as usize].push((self.now, NEVER));
        } else if !is_on {
            self.kernel.switch(set, true, self.now);
            if let Some((_, to)) = self.gaps[set as usize].last_mut() {
                *to = self.now;
            }
        }
    }

    /// Whether a set was off for a while since then.
    pub(super) fn has_gap(&self, set: Set, since: MonoNs) -> bool {
        self.gaps[set as usize].iter().any(|(_, to)| *to > since)
    }

    /// A client connects.
    pub(super) fn client(&mut self) -> Stream {
        let tag = self.kernel.adopts(LISTENER, self.now);
        let born = self.now;
        self.tick();
        self.kernel.establishes(tag, self.now);
        Stream::new(tag, token_of(Some(tag)), born)
    }

    /// We connect to a backend. Its end, where it is on this node, and whether somebody watches that.
    pub(super) fn upstream(&mut self) -> (Stream, Option<Stream>) {
        let born = self.now;
        let tag = match self.kernel.is_attached(Set::Core) {
            true => self.kernel.connects(born),
            false => None,
        };
        let why = if self.kernel.is_attached(Set::Core) { Missing::NO_SLOT } else { Missing::JOINED_LATE };
        let token =
            tag.map_or_else(|| crate::probes::no_slot(why), |tag| Token { generation: tag.generation, slot: tag.slot });
        let ours = Stream::new(tag.unwrap_or(LISTENER), token, born);
        self.tick();
        self.kernel.establishes(ours.tag, self.now);
        let is_here = !self.chance(5);
        self.tick();
        let theirs = is_here.then(|| {
            let tag = self.kernel.pairs(ours.tag, self.now).unwrap_or(LISTENER);
            let token = Token { generation: tag.generation, slot: tag.slot };
            Stream { is_accepted: false, ..Stream::new(tag, token, self.now) }
        });
        (ours, theirs)
    }

    /// One more segment comes, if there is one under way.
    pub(super) fn comes(&mut self, stream: &mut Stream) -> bool {
        let left = stream.end() - stream.arrived();
        if left == 0 {
            return false;
        }
        let now = self.tick();
        let most = self.random.usize(1..=self.segment_max).min(usize::try_from(left).unwrap());
        let end = stream.arrived() + u64::try_from(most).unwrap();
        stream.arrivals.push((end, now));
        self.kernel.readable(stream.tag, end, stream.is_accepted, now);
        true
    }

    /// What the agent is told of bytes of this stream. The kernel does not wait for who asks.
    pub(super) fn marks(&mut self, stream: &mut Stream, bytes: &std::ops::Range<u64>) -> Marks {
        while self.chance(4) && self.comes(stream) {}
        let marks = self.kernel.reader.marks(stream.token, bytes);
        stream.was_asked(bytes);
        marks
    }

    pub(super) fn backend(&self, stream: &Stream, ask: BackendAsk) -> BackendMarks {
        self.kernel.reader.backend(stream.token, ask)
    }

    /// The socket is gone.
    pub(super) fn ends(&mut self, stream: &mut Stream) {
        self.kernel.destroys(&mut stream.tag, self.now);
    }

    /// The socket is gone while somebody still asks about it, and others come.
    pub(super) fn loses(&mut self, stream: &mut Stream) {
        self.ends(stream);
        for _ in 0..self.random.u8(..8) {
            self.another();
            self.tick();
        }
    }

    /// Reasons why times of this stream may be missing.
    pub(super) fn lawful(&self, stream: &Stream) -> Missing {
        let mut lawful = Missing::NOTHING;
        let mut may = |is_so: bool, reason: Missing| {
            if is_so {
                lawful = lawful.with(reason);
            }
        };
        may(self.has_gap(Set::Core, stream.born), Missing::OFF.with(Missing::JOINED_LATE));
        may(stream.token == Token::NONE, Missing::NO_SLOT);
        may(stream.overwritten, Missing::OVERWRITTEN);
        may(stream.is_gone(), Missing::REUSED);
        lawful
    }
}

impl Stream {
    fn new(tag: Tag, token: Token, born: MonoNs) -> Self {
        Self {
            tag,
            token,
            born,
            base: 0,
            bytes: Vec::new(),
            arrivals: Vec::new(),
            is_accepted: true,
            armed: Some(0),
            armed_to: 0,
            overwritten: false,
        }
    }

    /// The story begins after so many bytes, all of which came at once.
    pub(super) fn begins_at(&mut self, base: u64, site: &mut Site) {
        if base > 0 {
            let now = site.tick();
            self.base = base;
            self.arrivals.push((base, now));
            site.kernel.readable(self.tag, base, self.is_accepted, now);
            site.kernel.reader.marks(self.token, &(base..base));
            self.was_read_to(base);
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.base + u64::try_from(self.bytes.len()).unwrap()
    }

    pub(super) fn arrived(&self) -> u64 {
        self.arrivals.last().map_or(self.base, |(end, _)| *end)
    }

    /// When the byte at this offset came.
    pub(super) fn came(&self, offset: u64) -> MonoNs {
        self.arrivals.iter().find(|(end, _)| *end > offset).map_or(NEVER, |(_, at)| *at)
    }

    pub(super) fn between(&self, from: u64, to: u64) -> &[u8] {
        let index = |offset: u64| usize::try_from(offset - self.base).unwrap();
        &self.bytes[index(from)..index(to)]
    }

    /// Whether more came behind this byte than the ring holds with the mark before its own.
    pub(super) fn has_left_ring(&self, offset: u64) -> bool {
        let its = self.arrivals.iter().position(|(end, _)| *end > offset);
        its.is_some_and(|its| self.arrivals.len() - its.saturating_sub(1) >= MARKS)
    }

    fn was_asked(&mut self, bytes: &std::ops::Range<u64>) {
        if !bytes.is_empty() {
            let may_lack = |offset: u64| self.armed != Some(offset) && self.has_left_ring(offset);
            self.overwritten |= may_lack(bytes.start) || may_lack(bytes.end - 1);
            self.arms(bytes.end);
        }
    }

    /// All before that offset was read: by now the latch has to be armed for the byte there, so that its time is kept whatever
    /// comes behind it, unless something has come already.
    pub(super) fn was_read_to(&mut self, offset: u64) {
        self.arms(offset);
    }

    fn arms(&mut self, offset: u64) {
        if offset > self.armed_to {
            self.armed_to = offset;
            self.armed = (self.arrived() <= offset).then_some(offset);
        }
    }

    /// Its socket is no more.
    pub(super) fn is_gone(&self) -> bool {
        self.token.slot != NO_SLOT && self.tag.slot == NO_SLOT
    }
}
