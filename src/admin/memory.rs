//! `/debug/memory`: who has the memory, and who waits for it.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use unifaas_actors::AdmissionReport;

use super::{Pages, access::AdminAccess};
use crate::{shared::Shared, ui::Shares};

#[derive(Debug, Serialize)]
struct Memory {
    /// In MiB.
    memory_budget: u64,
    #[serde(flatten)]
    admission: Option<AdmissionReport>,
    functions: Shares,
}

/// Serves the page.
pub async fn memory(_: AdminAccess, shared: web::Data<Shared>, pages: web::Data<Pages>) -> HttpResponse {
    let (admission, functions) = pages.dashboard.memory(&shared, &pages.turns).await;
    if pages.streams.open() == 0 {
        pages.dashboard.clear();
    }
    HttpResponse::Ok().json(Memory { memory_budget: shared.settings().memory_budget, admission, functions })
}
