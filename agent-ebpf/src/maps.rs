//! The maps, the loader's constants, and the few operations on them that several programs share.

use core::ffi::c_void;
use core::ptr;

use abi::{Free, NO_SLOT, Slot, Tag, counter};
use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, PerCpuArray, Queue};

// Offsets in the kernel's structs: rustc emits no CO-RE relocations, so the loader reads them from the running
// kernel's BTF. The map is frozen, so to the verifier they are constants.
#[unsafe(no_mangle)]
pub static BYTES_RECEIVED_OFFSET: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub static CLOCK_OFFSET: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static REST_NS: Global<u64> = Global::new(0);

// The loader sets both sizes to the configured number of slots.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static FREE: Queue<Free> = Queue::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

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

/// Adds one to this CPU's counter.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a live map value of this CPU; an interrupt between read and write can lose one, which a counter bears.
        unsafe { *counter += 1 };
    }
}

/// Takes the slot that has rested longest, cleared for a new use.
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
    // SAFETY: a live map value that nobody else holds between pop and push.
    unsafe {
        (*slot).rx_head = 0;
        (*slot).arm_offset = 0;
        (*slot).latch = abi::Latch { end: 0, at_ns: 0, previous_end: 0 };
        (*slot).established_ns = 0;
        (*slot).handshake_ns = 0;
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
