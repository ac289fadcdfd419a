//! The maps, the loader's constants, and the few operations on them that several programs share.

use core::ffi::c_void;
use core::ptr;

use abi::{Free, MARKS, Mark, NO_SLOT, Pair, ROLE_UPSTREAM, Slot, Tag, Trail, counter, switch};
use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_sk_storage_get, bpf_skc_to_tcp_sock};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray, Queue};

// Offsets in the kernel's structs: rustc emits no CO-RE relocations, so the loader reads them from the running
// kernel's BTF. The map is frozen, so to the verifier they are constants.
macro_rules! constants {
    ($($name:ident),*) => { $(#[unsafe(no_mangle)] pub static $name: Global<u64> = Global::new(0);)* };
}
constants! {
    BYTES_RECEIVED_OFFSET, CLOCK_OFFSET, BYTES_ACKED_OFFSET, RCV_NXT_OFFSET, COPIED_SEQ_OFFSET, SND_NXT_OFFSET,
    SND_UNA_OFFSET, SND_WND_OFFSET, SENT_CLOCK_OFFSET, MSS_OFFSET, WRITE_SEQ_OFFSET, SRTT_OFFSET, MDEV_OFFSET, TOTAL_RETRANS_OFFSET, SK_SOCKET_OFFSET,
    SKB_SEQ_OFFSET, SKB_END_SEQ_OFFSET, SKB_ACK_SEQ_OFFSET, SENT_ISN_OFFSET, RECEIVED_ISN_OFFSET
}
#[unsafe(no_mangle)]
static REST_NS: Global<u64> = Global::new(0);

// The loader sets these three sizes to the configured number of slots.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TRAILS: Array<Trail> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static FREE: Queue<Free> = Queue::with_max_entries(1, 0);
#[map]
static SWITCHES: Array<u64> = Array::with_max_entries(2, 0);
/// Handshakes of ours that a backend on this node may be the other end of. An entry lives for the microseconds until the
/// backend's socket is established; those of backends elsewhere are pushed out by newer ones.
#[map]
pub static PAIRS: LruHashMap<u64, Pair> = LruHashMap::with_max_entries(4096, 0);
/// Handshakes whose SYN-ACK was sent again.
#[map]
pub static SYNACKS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// The socket whose bytes `sk_data_ready` has seen on this CPU, until `again_sk_data_ready` has seen that.
#[map]
static SEEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Says that a socket was seen.
#[inline(always)]
pub fn set_seen(sk: *mut c_void) {
    if let Some(seen) = SEEN.get_ptr_mut(0) {
        // SAFETY: a live map value of this CPU; one word.
        unsafe { ptr::write_volatile(seen, sk as u64) };
    }
}

/// Whether it was this socket that was seen last; it counts once.
#[inline(always)]
pub fn take_seen(sk: *mut c_void) -> bool {
    let Some(seen) = SEEN.get_ptr_mut(0) else { return false };
    // SAFETY: as above.
    unsafe {
        let is_seen = ptr::read_volatile(seen) == sk as u64;
        if is_seen {
            ptr::write_volatile(seen, 0);
        }
        is_seen
    }
}

/// aya's own `SkStorage` has no BPF_F_CLONE, by which a listener's children inherit its tag, and takes no tracepoint
/// context; this is its layout with our flags.
#[repr(C)]
struct SkStorage {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Tag,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers describe types to the loader and are never followed.
unsafe impl Sync for SkStorage {}

#[btf_map]
static TAGS: SkStorage = SkStorage {
    r#type: ptr::null(),
    key: ptr::null(),
    value: ptr::null(),
    max_entries: ptr::null(),
    map_flags: ptr::null(),
};

/// The tag of a socket of ours.
#[inline(always)]
pub fn tag(sk: *mut c_void) -> Option<&'static mut Tag> {
    let map = ptr::from_ref(&TAGS).cast_mut().cast();
    // SAFETY: `sk` is the tracepoint's trusted argument; flag 0 never creates, so it is found or null.
    let value = unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), 0) };
    // SAFETY: the storage lives as long as the socket, which the tracepoint holds; a socket's events are serialised.
    unsafe { value.cast::<Tag>().as_mut() }
}

/// The slot that a tag names, unless it belongs to a later use by now.
#[inline(always)]
pub fn slot(tag: &Tag) -> Option<*mut Slot> {
    let slot = SLOTS.get_ptr_mut(tag.slot)?;
    // SAFETY: the pointer is a live map value; user space writes the generation only before the tag exists.
    let generation = unsafe { ptr::read_volatile(&raw const (*slot).generation) };
    (generation == tag.generation).then_some(slot)
}

/// Keeps the round trip as the kernel has it, which keeps both in fractions.
///
/// # Safety
/// `slot` is a live map value of this socket's, whose lock is held.
#[inline(always)]
pub unsafe fn keep_round_trip(slot: *mut Slot, tcp: Tcp) {
    // SAFETY: by this function's contract.
    unsafe {
        ptr::write_volatile(&raw mut (*slot).srtt_us, tcp.u32(&SRTT_OFFSET) >> 3);
        ptr::write_volatile(&raw mut (*slot).rttvar_us, tcp.u32(&MDEV_OFFSET) >> 2);
    }
}

/// What the optional probes saw of the connection in this slot.
#[inline(always)]
pub fn trail(index: u32) -> Option<*mut Trail> {
    TRAILS.get_ptr_mut(index)
}

/// Gives a socket that has no tag one.
#[inline(always)]
pub fn set_tag(sk: *mut c_void, mut tag: Tag) -> bool {
    const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE
    let map = ptr::from_ref(&TAGS).cast_mut().cast();
    // SAFETY: `sk` is the tracepoint's trusted argument, and the value is copied.
    let value = unsafe { bpf_sk_storage_get(map, sk, (&raw mut tag).cast(), CREATE) };
    !value.is_null()
}

/// Whether backends' sockets are looked for.
#[inline(always)]
pub fn seeks_backends() -> bool {
    // SAFETY: a live map value; one word.
    SWITCHES.get_ptr(switch::BITS).is_some_and(|switches| unsafe { *switches } & switch::BACKENDS != 0)
}

/// The clock of user space's monotonic stamps (CLOCK_MONOTONIC): tens of nanoseconds, so only who notes something asks.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no conditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Since when what comes in is watched without a gap.
#[inline(always)]
pub fn ack_since_ns() -> u64 {
    // SAFETY: a live map value; one word.
    SWITCHES.get_ptr(switch::ACK_SINCE).map_or(0, |since_ns| unsafe { *since_ns })
}

/// `sk` as a TCP socket.
#[inline(always)]
pub fn tcp(sk: *mut c_void) -> Option<Tcp> {
    // SAFETY: `sk` is the tracepoint's trusted argument.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<u8>();
    (!tcp.is_null()).then_some(Tcp(tcp))
}

/// A `struct tcp_sock`. Offsets come from this kernel's BTF, and the verifier checks them again.
#[derive(Clone, Copy)]
pub struct Tcp(*const u8);

impl Tcp {
    #[inline(always)]
    pub fn u64(self, offset: &Global<u64>) -> u64 {
        // SAFETY: see the type.
        unsafe { *self.0.add(offset.load() as usize).cast::<u64>() }
    }

    #[inline(always)]
    pub fn u32(self, offset: &Global<u64>) -> u32 {
        // SAFETY: see the type.
        unsafe { *self.0.add(offset.load() as usize).cast::<u32>() }
    }

    /// The stream offset of a sequence number on the sending side. An active opener's `bytes_acked` counts its SYN.
    #[inline(always)]
    pub fn sent_offset(self, seq: u32, role: u32) -> u64 {
        let syn = if role == ROLE_UPSTREAM { 1 } else { 0 };
        let ahead = seq.wrapping_sub(self.u32(&SND_UNA_OFFSET)) as i32;
        self.u64(&BYTES_ACKED_OFFSET).wrapping_sub(syn).wrapping_add(ahead as i64 as u64)
    }
}

/// Appends to a ring whose head is `head`: the words in the order on which the reader relies (stores are ordered on
/// x86_64).
///
/// # Safety
/// Both pointers are inside one live map value, `ring` being [`MARKS`] long.
#[inline(always)]
pub unsafe fn push(head: *mut u64, ring: *mut Mark, mark: Mark) {
    const MASK: u64 = MARKS as u64 - 1;
    // SAFETY: by this function's contract; masked indices are inside the ring.
    unsafe {
        let at = ptr::read_volatile(head);
        let entry = ring.add((at & MASK) as usize);
        ptr::write_volatile(&raw mut (*entry).end, mark.end);
        ptr::write_volatile(&raw mut (*entry).at_ns, mark.at_ns);
        ptr::write_volatile(head, at.wrapping_add(1));
    }
}

/// Adds one to this CPU's counter.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a live map value of this CPU; an interrupt between read and write can lose one, which a counter bears.
        unsafe { *counter += 1 };
    }
}

/// Takes the slot that has rested longest, cleared for a new use with a generation of its own.
#[inline(always)]
pub fn take_slot(now_ns: u64) -> Option<(u32, *mut Slot)> {
    let rested = |free: &Free| free.freed_ns.wrapping_add(REST_NS.load()) <= now_ns || free.freed_ns == 0;
    FREE.peek().ok().flatten().filter(rested)?;
    let free = FREE.pop().ok().flatten()?;
    if !rested(&free) {
        // Another CPU took the one that was looked at; this one goes behind the others and rests on.
        give_back(free);
        return None;
    }
    let slot = SLOTS.get_ptr_mut(free.slot)?;
    let trail = TRAILS.get_ptr_mut(free.slot)?;
    // SAFETY: live map values that nobody else holds between pop and push. The generation moves on first: whoever read what is
    // cleared here sees that it has (stores are ordered on x86_64).
    unsafe {
        let generation = ptr::read_volatile(&raw const (*slot).generation);
        ptr::write_volatile(&raw mut (*slot).generation, generation.wrapping_add(1));
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        (*slot).rx_head = 0;
        (*slot).arm_offset = 0;
        (*slot).latch = abi::Latch { end: 0, at_ns: 0, previous_end: 0 };
        (*slot).established_ns = 0;
        (*slot).srtt_us = 0;
        (*slot).rttvar_us = 0;
        (*slot).handshake_ns = 0;
        (*slot).synack_resent_ns = 0;
        (*slot).unaccepted_end = 0;
        (*slot).flags = 0;
        (*slot).handshake_rtt_us = 0;
        (*trail).taken_head = 0;
        (*trail).sent_head = 0;
        (*trail).resent_head = 0;
        (*trail).taken_end = 0;
        (*trail).turn = Mark { end: 0, at_ns: 0 };
        (*trail).turn_taken_end = 0;
        (*trail).heard_ns = 0;
        (*trail).heard = 0;
        (*trail).stall_count = 0;
        (*trail).stall_last = 0;
        (*trail).message_start = 0;
    }
    Some((free.slot, slot))
}

/// Puts a slot at the end of the FIFO.
#[inline(always)]
pub fn give_back(free: Free) {
    if free.slot != NO_SLOT && FREE.push(free, 0).is_err() {
        count(counter::LOST_SLOT);
    }
}
