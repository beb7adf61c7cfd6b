//! Why a snapshot cannot be used or kept.

use std::io;

const MIB: u64 = 1 << 20;

/// Why a snapshot cannot be used or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("the snapshot takes {} MiB, and all together may take {} MiB (--snapshot-budget)", .bytes.div_ceil(MIB), .budget / MIB)]
    TooLarge { bytes: u64, budget: u64 },
    #[error("no snapshots are kept (--snapshot-budget)")]
    Off,
}
