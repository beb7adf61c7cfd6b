# Two entry points, the switch to 64-bit mode, and the CPU's tables: GDT, page tables, stack. AT&T syntax. The code ends in
# `start` of main.rs.

# ---- PVH: a note in the ELF file names the address. QEMU insists on it, newer Firecrackers prefer it.
    .section .note.pvh, "a", @note
    .balign 4
    .long 4                         # size of the name
    .long 8                         # size of the descriptor
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.boot, "ax"
    .code32
pvh_entry:                          # 32-bit protected mode, no paging; ebx = hvm_start_info
    cli
    cld
    movl 24(%ebx), %edi             # cmdline_paddr
    movl $page_map_level_4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                 # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER
    rdmsr
    orl $0x100, %eax                # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax           # PG
    movl %eax, %cr0
    lgdt gdt_register
    ljmp $8, $long_mode

# ---- The ELF entry: Linux's 64-bit boot protocol, older Firecrackers.
    .code64
    .globl linux_entry
linux_entry:                        # long mode, the loader's page tables; rsi = boot_params
    cli
    cld
    movl 0x228(%rsi), %edi          # cmd_line_ptr
    movl $page_map_level_4, %eax
    movq %rax, %cr3
    movl $stack_top, %esp
    lgdt gdt_register
    pushq $8
    pushq $long_mode
    lretq

long_mode:                          # edi = address of the command line, or 0
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $stack_top, %esp
    xorl %ebp, %ebp
    movl %edi, %edi
    call start
1:  hlt
    jmp 1b

# ---- Interrupts only end a `hlt`; the main loop polls the devices.
    .globl wake_up
wake_up:
    pushq %rax
    movl $0xfee000b0, %eax          # LAPIC: end of interrupt. As an absolute operand it would be sign-extended.
    movl $0, (%rax)
    popq %rax
    iretq

    .globl spurious
spurious:
    iretq

# ---- Exceptions: 32 entries of 16 bytes each, all of them fatal.
    .balign 16
    .globl exceptions
exceptions:
    .set vector, 0
    .rept 32
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    pushq $0                        # where the CPU pushes no error code
    .endif
    pushq $vector
    jmp exception
    .set vector, vector + 1
    .endr
exception:
    movq %rsp, %rdi
    andq $-16, %rsp
    call report_exception

# ---- memcpy and the like, by `rep` with 8 bytes at a time: an emulated CPU takes one step per element.
    .globl memcpy
memcpy:                             # rdi = to, rsi = from, rdx = length
    movq %rdi, %rax
copy_forwards:
    movq %rdx, %rcx
    shrq $3, %rcx
    rep movsq
    movl %edx, %ecx
    andl $7, %ecx
    rep movsb
    ret

    .globl memmove
memmove:
    movq %rdi, %rax
    movq %rdi, %rcx
    subq %rsi, %rcx
    cmpq %rdx, %rcx                 # unsigned: `to` lies before `from`, or behind its end
    jae copy_forwards
    movq %rdx, %rcx
    addq %rdx, %rdi
    addq %rdx, %rsi
    std
    andl $7, %ecx                   # the odd bytes at the end first, then whole words downwards
    decq %rdi
    decq %rsi
    rep movsb
    subq $7, %rdi
    subq $7, %rsi
    movq %rdx, %rcx
    shrq $3, %rcx
    rep movsq
    cld
    ret

    .globl memset
memset:                             # rdi = to, sil = byte, rdx = length
    movq %rdi, %r8
    movzbl %sil, %eax
    movabsq $0x0101010101010101, %rcx
    imulq %rcx, %rax
    movq %rdx, %rcx
    shrq $3, %rcx
    rep stosq
    movl %edx, %ecx
    andl $7, %ecx
    rep stosb
    movq %r8, %rax
    ret

    .globl memcmp
    .globl bcmp
memcmp:                             # rdi, rsi = what to compare, rdx = length
bcmp:
    xorl %eax, %eax
    movq %rdx, %rcx
    shrq $3, %rcx
    jz 2f
1:  movq (%rdi), %r8
    cmpq (%rsi), %r8
    jne 3f
    addq $8, %rdi
    addq $8, %rsi
    decq %rcx
    jnz 1b
2:  movl %edx, %ecx
    andl $7, %ecx
    jmp 4f
3:  movl $8, %ecx                   # the words differ: find the byte
4:  jecxz 6f
5:  movzbl (%rdi), %eax
    movzbl (%rsi), %r8d
    subl %r8d, %eax
    jnz 6f
    incq %rdi
    incq %rsi
    decl %ecx
    jnz 5b
6:  ret

# ---- Tables, filled at build time: at boot that would take 10,000 instructions.
    .section .data.tables, "aw"
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff        # 8: 64-bit code
    .quad 0x00cf92000000ffff        # 16: data
gdt_register:
    .word . - gdt - 1
    .quad gdt

    .balign 4096
page_map_level_4:                   # the first 4 GiB, memory and devices, mapped to themselves by pages of 2 MiB
    .quad page_directory_pointers + 3
    .fill 511, 8, 0
page_directory_pointers:
    .quad page_directories + 0x0003
    .quad page_directories + 0x1003
    .quad page_directories + 0x2003
    .quad page_directories + 0x3003
    .fill 508, 8, 0
page_directories:
    .set page, 0
    .rept 2048
    .quad page * 0x200000 + 0x83    # present, writable, large
    .set page, page + 1
    .endr

    .section .bss.stack, "aw", @nobits
    .balign 16
    .skip 65536
stack_top:
