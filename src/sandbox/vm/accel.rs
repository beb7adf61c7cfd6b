//! Whether `/dev/kvm` executes guests on the processor.
//!
//! A host that is itself a virtual machine can offer a KVM that emulates every instruction: a thousand times slower than
//! the processor, a hundred times slower than QEMU's own translator, and without floating point. It is told by running
//! one instruction that every such processor has and that KVM's emulator does not know.

use std::{error::Error, fmt};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};

/// Where the page with the program is, in the guest.
const BASE: u64 = 0x1000;
/// `xorps %xmm0, %xmm0; hlt`, the same in real mode as in any other.
const PROGRAM: [u8; 4] = [0x0f, 0x57, 0xc0, 0xf4];
/// In CR4: the operating system knows of SSE, so that its instructions are valid.
const OSFXSR: u64 = 1 << 9;
/// What always stands in RFLAGS.
const RFLAGS: u64 = 2;

#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Why KVM is of no use here.
#[derive(Debug)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tries it. Takes some milliseconds.
pub fn probe() -> Result<(), Unusable> {
    match run() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Unusable("/dev/kvm emulates guests instead of running them on the processor".to_owned())),
        Err(error) => Err(Unusable(format!("/dev/kvm cannot be used: {error}"))),
    }
}

/// Whether the program ran to its end.
fn run() -> Result<bool, Box<dyn Error>> {
    let mut page = Box::new(Page([0; 4096]));
    page.0[..PROGRAM.len()].copy_from_slice(&PROGRAM);
    let vm = Kvm::new()?.create_vm()?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: BASE,
        memory_size: size_of::<Page>() as u64,
        userspace_addr: page.0.as_mut_ptr() as u64,
    };
    // SAFETY: the page is as large as said and page-aligned, nothing else refers to it, and it outlives the VM, which is
    // declared after it.
    unsafe { vm.set_user_memory_region(region) }?;
    let mut cpu = vm.create_vcpu(0)?;
    let mut special = cpu.get_sregs()?;
    special.cs.base = 0;
    special.cs.selector = 0;
    special.cr4 |= OSFXSR;
    cpu.set_sregs(&special)?;
    let mut registers = cpu.get_regs()?;
    registers.rip = BASE;
    registers.rflags = RFLAGS;
    cpu.set_regs(&registers)?;
    Ok(matches!(cpu.run()?, VcpuExit::Hlt))
}
