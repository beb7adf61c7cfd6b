//! The sections of a page as they were rendered last, shared by all streams of that page.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{Arc, Weak},
    time::Duration,
};

use foldhash::fast::FixedState;
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};

use super::{Dashboard, Page};
use crate::{shared::Shared, turn::Turns};

/// The least time between two renderings of a page.
const INTERVAL: Duration = Duration::from_millis(450);

/// Renders each page at most twice a second, however many streams it has.
#[derive(Debug, Default)]
pub struct Renderer(std::sync::Mutex<HashMap<Page, Weak<Latest>>>);

/// The last rendering of a page.
type Latest = Mutex<Option<Arc<Rendered>>>;

/// The sections of a page.
#[derive(Debug)]
pub struct Rendered {
    at: Instant,
    sections: Vec<RenderedSection>,
}

/// A section as streams send it.
#[derive(Debug)]
struct RenderedSection {
    id: &'static str,
    hash: u64,
    /// A JSON object with the members `id` and `html`.
    json: Arc<str>,
}

#[derive(Serialize)]
struct SectionJson<'a> {
    id: &'a str,
    html: &'a str,
}

/// A stream of a page: what it has sent so far.
#[derive(Debug)]
pub struct Viewer {
    page: Page,
    latest: Arc<Latest>,
    sent: HashMap<&'static str, u64>,
}

impl Renderer {
    /// Returns a viewer of a page.
    pub fn view(&self, page: Page) -> Viewer {
        let mut pages = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pages.retain(|_, latest| latest.strong_count() > 0);
        let latest = pages.get(&page).and_then(Weak::upgrade).unwrap_or_else(|| {
            let latest = Arc::<Latest>::default();
            pages.insert(page.clone(), Arc::downgrade(&latest));
            latest
        });
        Viewer { page, latest, sent: HashMap::new() }
    }
}

impl Viewer {
    /// Returns the sections that have changed since the last call, as JSON. `None`: the subject of the page does not
    /// exist any more.
    pub async fn changes(&mut self, dashboard: &Dashboard, shared: &Shared, turns: &Turns) -> Option<Vec<Arc<str>>> {
        let rendered = self.rendered(dashboard, shared, turns).await?;
        let sent = &mut self.sent;
        let changed =
            rendered.sections.iter().filter(|section| sent.insert(section.id, section.hash) != Some(section.hash));
        Some(changed.map(|section| section.json.clone()).collect())
    }

    async fn rendered(&self, dashboard: &Dashboard, shared: &Shared, turns: &Turns) -> Option<Arc<Rendered>> {
        let mut latest = self.latest.lock().await;
        if let Some(rendered) = latest.as_ref().filter(|rendered| rendered.at.elapsed() < INTERVAL) {
            return Some(rendered.clone());
        }
        let content = dashboard.content(&self.page, shared, turns).await?;
        let sections = content.sections.iter().map(|section| {
            let html = section.element().into_string();
            let (id, hash) = (section.id, FixedState::default().hash_one(&html));
            // Strings can always be written.
            let json = serde_json::to_string(&SectionJson { id, html: &html }).unwrap_or_default().into();
            RenderedSection { id, hash, json }
        });
        let rendered = Arc::new(Rendered { at: Instant::now(), sections: sections.collect() });
        *latest = Some(rendered.clone());
        Some(rendered)
    }
}
