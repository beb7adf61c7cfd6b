//! Firecracker's configuration file. The names of types and their fields are in messages, so they are Firecracker's.

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny},
};

use crate::refusal::{Refusal, parsing, wrapped};

const MAX_VCPUS: u8 = 32;

/// The whole file; unknown keys are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmmConfig {
    #[serde(rename = "balloon")]
    _balloon: Option<IgnoredAny>,
    pub drives: Vec<BlockDeviceConfig>,
    pub boot_source: BootSourceConfig,
    #[serde(rename = "cpu-config")]
    _cpu_config: Option<IgnoredAny>,
    #[serde(rename = "logger")]
    _logger: Option<IgnoredAny>,
    machine_config: Option<MachineConfig>,
    #[serde(rename = "metrics")]
    _metrics: Option<IgnoredAny>,
    #[serde(rename = "mmds-config")]
    _mmds_config: Option<IgnoredAny>,
    #[serde(default)]
    pub network_interfaces: Vec<NetworkInterfaceConfig>,
    #[serde(rename = "vsock")]
    _vsock: Option<IgnoredAny>,
    #[serde(rename = "entropy")]
    _entropy: Option<IgnoredAny>,
    #[serde(default, rename = "pmem")]
    _pmem: Option<IgnoredAny>,
    #[serde(rename = "memory-hotplug")]
    _memory_hotplug: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSourceConfig {
    pub kernel_image_path: String,
    pub initrd_path: Option<String>,
    pub boot_args: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockDeviceConfig {
    pub drive_id: String,
    #[serde(rename = "partuuid")]
    _partuuid: Option<String>,
    pub is_root_device: bool,
    #[serde(default, rename = "cache_type")]
    _cache_type: CacheType,
    pub is_read_only: Option<bool>,
    pub path_on_host: Option<String>,
    #[serde(rename = "rate_limiter")]
    _rate_limiter: Option<IgnoredAny>,
    #[serde(rename = "io_engine")]
    _io_engine: Option<FileEngineType>,
    #[serde(rename = "socket")]
    _socket: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
enum CacheType {
    #[default]
    Unsafe,
    Writeback,
}

#[derive(Debug, Deserialize)]
enum FileEngineType {
    Async,
    Sync,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    pub vcpu_count: u8,
    pub mem_size_mib: usize,
    #[serde(default)]
    smt: bool,
    #[serde(rename = "cpu_template")]
    _cpu_template: Option<String>,
    #[serde(default, rename = "track_dirty_pages")]
    _track_dirty_pages: bool,
    #[serde(default)]
    pub huge_pages: HugePageConfig,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum HugePageConfig {
    #[default]
    None,
    Transparent,
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterfaceConfig {
    pub iface_id: String,
    pub host_dev_name: String,
    pub guest_mac: Option<MacAddr>,
    #[serde(rename = "mtu")]
    _mtu: Option<u16>,
    #[serde(rename = "rx_rate_limiter")]
    _rx_rate_limiter: Option<IgnoredAny>,
    #[serde(rename = "tx_rate_limiter")]
    _tx_rate_limiter: Option<IgnoredAny>,
}

/// The address in its usual form.
#[derive(Debug)]
pub struct MacAddr(pub String);

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2);
        let bytes = text.split(':').map(byte).collect::<Option<Vec<u8>>>().filter(|bytes| bytes.len() == 6);
        let bytes = bytes.ok_or_else(|| D::Error::custom("The provided MAC address is invalid."))?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")))
    }
}

impl VmmConfig {
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let config: Self = serde_json::from_str(text)
            .map_err(|error| wrapped("InvalidJson(", &error, &format!("Invalid JSON: {error}")))?;
        config.machine().check()?;
        Ok(config)
    }

    /// Returns the machine, which has defaults.
    pub fn machine(&self) -> &MachineConfig {
        const DEFAULT: MachineConfig = MachineConfig {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            _cpu_template: None,
            _track_dirty_pages: false,
            huge_pages: HugePageConfig::None,
        };
        self.machine_config.as_ref().unwrap_or(&DEFAULT)
    }
}

impl MachineConfig {
    fn check(&self) -> Result<(), Refusal> {
        let Self { vcpu_count, mem_size_mib, smt, huge_pages, .. } = *self;
        if !(1..=MAX_VCPUS).contains(&vcpu_count) || (smt && vcpu_count > 1 && vcpu_count % 2 == 1) {
            let words =
                format!("VM config error: The number of vCPUs must be from 1 to {MAX_VCPUS}, and 1 or even with SMT.");
            return Err(parsing("MachineConfig(InvalidVcpuCount)", &words));
        }
        if mem_size_mib == 0 || (huge_pages != HugePageConfig::None && mem_size_mib % 2 == 1) {
            let words = "VM config error: The memory size (MiB) is either 0, or not a multiple of the page size.";
            return Err(parsing("MachineConfig(InvalidMemorySize)", words));
        }
        Ok(())
    }
}
