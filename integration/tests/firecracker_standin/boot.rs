//! Kernels, initial ramdisks and command lines.

use std::fs;

use integration::vm::unikernel;
use serde_json::{Value, json};

use crate::host::{
    Outcome::{Exits, Panics, Resets, Runs},
    remove, set, with_each,
};

#[test]
fn boot_source() {
    with_each(async |host| {
        let line = host.cmdline();
        let padded = |length: usize| format!("{line} {}", "x".repeat(length - line.len() - 1));
        let too_large = starting!("AttachDevice(MmioTransport(Cmdline(TooLarge))))))");
        let too_long = starting!("KernelCmdline(\"Inserting string would make command line too long.\"))))");
        let capacity = parsing!("BootSource(InvalidKernelCommandLine(\"Invalid cmdline capacity provided.\")))))");
        for (length, expected) in [
            (1900, Runs),
            (1960, Runs),
            (2004, Runs),
            (2005, too_large),
            (2020, too_large),
            (2039, too_large),
            (2040, too_long),
            (2047, too_long),
            (2048, capacity),
            (4000, capacity),
        ] {
            let change = set("/boot-source/boot_args", json!(padded(length)));
            host.check(&format!("boot_args of {length} bytes"), change, expected).await;
        }
        for (args, expected) in [
            (Value::Null, Resets),
            (json!(""), Resets),
            (json!(format!("{line} ü")), Runs),
            (json!(format!("{line} a\nb")), Runs),
            (json!(format!("{line} -- a -- b")), Runs),
            (json!(format!("{line}\0b")), Panics("Firecracker panicked at src/vmm/src/arch/x86_64/mod.rs:")),
        ] {
            host.check(&format!("boot_args {args}"), set("/boot-source/boot_args", args.clone()), expected).await;
        }
        host.check("no boot_args", remove("/boot-source/boot_args"), Resets).await;
        let missing = parsing!(
            "BootSource(InvalidInitrdPath(Os { code: 2, kind: NotFound, message: \"No such file or directory\""
        );
        for (initrd, expected) in [
            (Value::Null, Runs),
            (json!("no-such-file"), missing),
            (json!(host.zeros("empty", 0)), starting!("Initrd(Load)))")),
            (json!(host.zeros("initrd", 4 << 20)), Runs),
            (json!(host.zeros("large", 64 << 20)), starting!("Initrd(Address)))")),
        ] {
            host.check(&format!("initrd {initrd}"), set("/boot-source/initrd_path", initrd.clone()), expected).await;
        }
    });
}

#[test]
fn kernels() {
    with_each(async |host| {
        let kernel = fs::read(unikernel()).unwrap();
        let patched = |patches: &[(usize, u8)]| {
            let mut patched = kernel.clone();
            patches.iter().for_each(|(at, byte)| patched[*at] = *byte);
            patched
        };
        let zeros: Vec<(usize, u8)> = (6..24).map(|at| (at, 0)).collect();
        let (header, table, image) = (
            starting!("ConfigureSystem(KernelLoader(Elf(ReadElfHeader))))))"),
            starting!("ConfigureSystem(KernelLoader(Elf(ReadProgramHeader))))))"),
            starting!("ConfigureSystem(KernelLoader(Elf(ReadKernelImage))))))"),
        );
        for (name, content, expected) in [
            ("text", b"a kernel\n".to_vec(), header),
            ("empty", Vec::new(), header),
            ("four", kernel[..4].to_vec(), header),
            ("twenty", kernel[..20].to_vec(), header),
            ("header", kernel[..64].to_vec(), table),
            ("cut", kernel[..4096].to_vec(), image),
            ("no-elf", vec![b'x'; 4096], starting!("ConfigureSystem(KernelLoader(Bzimage(InvalidBzImage))))))")),
            ("aarch64", patched(&[(18, 183)]), Runs),
            ("32-bit", patched(&[(4, 1)]), Runs),
            ("zeros", patched(&zeros), Runs),
            ("entry", patched(&[(27, 0x12)]), Runs),
            (
                "big-endian",
                patched(&[(5, 2)]),
                starting!("ConfigureSystem(KernelLoader(Elf(BigEndianElfOnLittle))))))"),
            ),
            (
                "program",
                fs::read("/bin/true").unwrap(),
                starting!("ConfigureSystem(KernelLoader(Elf(InvalidEntryAddress))))))"),
            ),
        ] {
            let path = json!(host.file(name, &content));
            host.check(name, set("/boot-source/kernel_image_path", path), expected).await;
        }
        let missing = parsing!(
            "BootSource(InvalidKernelPath(Os { code: 2, kind: NotFound, message: \"No such file or directory\""
        );
        host.check("missing", set("/boot-source/kernel_image_path", json!("no-such-file")), missing).await;
        let directory = json!(host.files.path().display().to_string());
        host.check("directory", set("/boot-source/kernel_image_path", directory), header).await;
    });
}
