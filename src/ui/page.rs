//! Which pages there are, and their addresses.

use std::fmt::{self, Write as _};

use actix_web::web::Query;
use serde::{Deserialize, de::DeserializeOwned};
use unifaas_actors::{InstanceId, spec::check_name};

/// Rows of the list of functions on one page.
pub const ROWS: usize = 50;

/// A page of the dashboard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Page {
    Overview(Listing),
    Function(String),
    Instance(InstanceId),
    /// The starts of one function, or of all.
    Boots(Option<String>),
    /// The start of an instance.
    Boot(InstanceId),
    Memory,
    /// The failures of one function, or of all.
    Errors(Option<String>),
    /// The nodes of the cluster.
    Nodes,
}

/// Why an address leads to no page.
#[derive(Debug, PartialEq, Eq)]
pub enum PageError {
    Unknown,
    Query(String),
}

/// Which functions are listed, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listing {
    /// Part of the names.
    pub find: String,
    pub state: Filter,
    pub sort: Sort,
    /// The first page is 0.
    pub page: usize,
}

/// Which functions are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    #[default]
    #[serde(alias = "")]
    All,
    /// With instances.
    Running,
    Serving,
    Failing,
    Misconfigured,
    Draining,
}

/// The order of functions in a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Those that fail, then those with instances, then by name.
    #[default]
    #[serde(alias = "")]
    State,
    Name,
    Instances,
    Requests,
    Latency,
    Failed,
    Queue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfFunction {
    function: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Filter {
    pub const ALL: [Self; 6] =
        [Self::All, Self::Running, Self::Serving, Self::Failing, Self::Misconfigured, Self::Draining];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Running => "running",
            Self::Serving => "serving",
            Self::Failing => "failing",
            Self::Misconfigured => "misconfigured",
            Self::Draining => "draining",
        }
    }
}

impl Sort {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Name => "name",
            Self::Instances => "instances",
            Self::Requests => "requests",
            Self::Latency => "latency",
            Self::Failed => "failed",
            Self::Queue => "queue",
        }
    }
}

impl Page {
    /// Returns the page at an address.
    pub fn parse(path: &str, query: &str) -> Result<Self, PageError> {
        let rest = path.strip_prefix("/ui/").ok_or(PageError::Unknown)?;
        let instance = |id| InstanceId::parse(id).ok_or(PageError::Unknown);
        match rest.split_once('/').unwrap_or((rest, "")) {
            ("", "") => Ok(Self::Overview(parameters(query)?)),
            ("boots", "") => Ok(Self::Boots(parameters::<OfFunction>(query)?.function)),
            ("errors", "") => Ok(Self::Errors(parameters::<OfFunction>(query)?.function)),
            ("memory", "") => parameters::<Nothing>(query).map(|_| Self::Memory),
            ("nodes", "") => parameters::<Nothing>(query).map(|_| Self::Nodes),
            ("functions", name) if check_name(name).is_ok() => {
                parameters::<Nothing>(query).map(|_| Self::Function(name.to_owned()))
            }
            ("instances", id) => parameters::<Nothing>(query).and_then(|_| instance(id)).map(Self::Instance),
            ("boots", id) => parameters::<Nothing>(query).and_then(|_| instance(id)).map(Self::Boot),
            _ => Err(PageError::Unknown),
        }
    }

    /// Returns the page at an address with its query.
    pub fn at(address: &str) -> Result<Self, PageError> {
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        Self::parse(path, query)
    }
}

fn parameters<T: DeserializeOwned>(query: &str) -> Result<T, PageError> {
    Query::from_query(query).map(Query::into_inner).map_err(|error| PageError::Query(error.to_string()))
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overview(listing) => listing.fmt(f),
            Self::Function(name) => write!(f, "/ui/functions/{name}"),
            Self::Instance(id) => write!(f, "/ui/instances/{id}"),
            Self::Boots(None) => f.write_str("/ui/boots"),
            Self::Boots(Some(name)) => write!(f, "/ui/boots?function={}", Encoded(name)),
            Self::Boot(id) => write!(f, "/ui/boots/{id}"),
            Self::Memory => f.write_str("/ui/memory"),
            Self::Nodes => f.write_str("/ui/nodes"),
            Self::Errors(None) => f.write_str("/ui/errors"),
            Self::Errors(Some(name)) => write!(f, "/ui/errors?function={}", Encoded(name)),
        }
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/ui/")?;
        let mut separator = '?';
        let mut put = |f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display| {
            write!(f, "{}{name}={value}", std::mem::replace(&mut separator, '&'))
        };
        if !self.find.is_empty() {
            put(f, "find", &Encoded(&self.find))?;
        }
        if self.state != Filter::default() {
            put(f, "state", &self.state.as_str())?;
        }
        if self.sort != Sort::default() {
            put(f, "sort", &self.sort.as_str())?;
        }
        if self.page > 0 {
            put(f, "page", &self.page)?;
        }
        Ok(())
    }
}

/// A value in a query.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => f.write_char(byte.into())?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_as_they_are_written() {
        let id = InstanceId::parse("00000000000000ab").unwrap();
        let listing = Listing { find: "a&b ü".to_owned(), state: Filter::Failing, sort: Sort::Queue, page: 3 };
        for page in [
            Page::Overview(Listing::default()),
            Page::Overview(listing),
            Page::Function("hello".to_owned()),
            Page::Instance(id),
            Page::Boots(None),
            Page::Boots(Some("hello".to_owned())),
            Page::Boot(id),
            Page::Memory,
            Page::Nodes,
            Page::Errors(None),
            Page::Errors(Some("hello".to_owned())),
        ] {
            assert_eq!(Page::at(&page.to_string()), Ok(page.clone()), "{page}");
        }
        assert_eq!(Page::at("/ui/?find=&state=&sort="), Ok(Page::Overview(Listing::default())));
    }

    #[test]
    fn unknown_addresses_are_no_pages() {
        for address in ["/", "/ui", "/ui/x", "/ui/functions/", "/ui/functions/a/b", "/ui/instances/1", "/ui/memory/x"] {
            assert_eq!(Page::at(address), Err(PageError::Unknown), "{address}");
        }
        for (address, hint) in [("/ui/?sort=age", "age"), ("/ui/memory?x=1", "x"), ("/ui/?page=-1", "digit")] {
            match Page::at(address) {
                Err(PageError::Query(why)) => assert!(why.contains(hint), "{address}: {why}"),
                other => panic!("{address}: {other:?}"),
            }
        }
    }
}
