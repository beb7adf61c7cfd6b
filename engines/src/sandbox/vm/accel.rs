//! Finds out whether `/dev/kvm` executes guests on the processor.
//!
//! A host that is itself a virtual machine can offer a KVM that emulates every instruction. Such a KVM is a thousand times
//! slower than the processor and a hundred times slower than QEMU's TCG, and has no floating point. The probe runs one
//! instruction that every processor has and that KVM's emulator does not implement.

use std::{error::Error, fmt};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};

/// Guest address of the page with the program.
const BASE: u64 = 0x1000;
/// `xorps %xmm0, %xmm0; hlt`, the same in real mode as in any other.
const PROGRAM: [u8; 4] = [0x0f, 0x57, 0xc0, 0xf4];
/// In CR4: enables SSE instructions.
const OSFXSR: u64 = 1 << 9;
/// The bit of RFLAGS that is always set.
const RFLAGS: u64 = 2;

#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Why KVM cannot be used here.
#[derive(Debug)]
pub struct Unusable(String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Fails if KVM is missing, or emulates guests. Takes some milliseconds.
pub fn probe() -> Result<(), Unusable> {
    match run() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Unusable("/dev/kvm emulates guests instead of running them on the processor".to_owned())),
        Err(error) => Err(Unusable(format!("/dev/kvm cannot be used: {error}"))),
    }
}

/// Returns whether the guest ran the program to its end.
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
    // SAFETY: the page has the stated size and is page-aligned, nothing else refers to it, and it outlives the VM, which
    // is declared after it.
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
