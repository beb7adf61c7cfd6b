//! `/ui/`: serves the pages of the dashboard, and streams of what has changed of them.
//!
//! A stream has the events `section` (a part of the page, rendered again), `missing` (the subject of the page was
//! removed), `log` and `gap`.

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder, guard,
    http::header,
    web::{self, ServiceConfig},
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use serde::Deserialize;
use unifaas_actors::LineFilter;

use super::{
    Pages,
    access::{AdminAccess, reject},
    format::{Format, put_event},
    live::{self, Updates, Wanted},
    query::query_of,
};
use crate::{
    failure::{Failure, Rejection},
    shared::Shared,
    ui::{self, Page, PageError, Theme, Viewer},
};

/// The scripts, styles and connections of pages are the daemon's own. The form filters the list of functions.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
/// The cookie in which the script keeps the colours that were chosen.
const THEME: &str = "unifaas-theme=";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    page: String,
    last: Option<u64>,
}

/// Adds the routes.
pub fn routes(config: &mut ServiceConfig) {
    let read = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    config
        .route("/", read().to(to_overview))
        .route("/ui", read().to(to_overview))
        .route("/ui/style.css", read().to(async |_: AdminAccess| asset("text/css; charset=utf-8", ui::STYLE)))
        .route("/ui/ui.js", read().to(async |_: AdminAccess| asset("text/javascript; charset=utf-8", ui::SCRIPT)))
        .route("/ui/icon.svg", read().to(async |_: AdminAccess| asset("image/svg+xml", ui::ICON)))
        .route("/ui/events", read().to(events))
        .route("/ui/{page:.*}", read().to(page));
}

async fn to_overview(_: AdminAccess) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, "/ui/")).finish()
}

fn asset(kind: &'static str, content: &'static str) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    secure(&mut response).insert_header((header::CACHE_CONTROL, "no-cache")).content_type(kind).body(content)
}

fn secure(response: &mut HttpResponseBuilder) -> &mut HttpResponseBuilder {
    response
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
}

/// Serves a page.
async fn page(
    _: AdminAccess,
    request: HttpRequest,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
) -> Result<HttpResponse, Rejection> {
    let page = Page::parse(request.path(), request.query_string()).map_err(|error| refuse(&request, error))?;
    let content = pages.dashboard.content(&page, &shared, &pages.turns).await;
    let mut response = match content {
        Some(_) => HttpResponse::Ok(),
        None => HttpResponse::NotFound(),
    };
    let content = content.unwrap_or_else(|| ui::not_found(&page));
    if pages.streams.open() == 0 {
        pages.dashboard.clear();
    }
    let html = ui::document(&page, &content, theme(&request), shared.cluster.is_some()).into_string();
    secure(&mut response).insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(response.content_type("text/html; charset=utf-8").body(html))
}

fn refuse(request: &HttpRequest, error: PageError) -> Rejection {
    let failure = match error {
        PageError::Unknown => Failure::NoSuchPage,
        PageError::Query(why) => Failure::BadQuery { why },
    };
    reject(request, failure)
}

fn theme(request: &HttpRequest) -> Theme {
    let cookies = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    let mut chosen = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().strip_prefix(THEME));
    chosen.next().map_or(Theme::System, Theme::parse)
}

/// Serves the stream of a page.
async fn events(
    access: AdminAccess,
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
    pages: web::Data<Pages>,
) -> Result<HttpResponse, Rejection> {
    let Query { page, last } = query_of(&request)?;
    let page = Page::at(&page).map_err(|error| refuse(&request, error))?;
    let lines = match &page {
        Page::Instance(id) => LineFilter::Instance(*id),
        _ => LineFilter::Nothing,
    };
    let updates: Box<dyn Updates> = Box::new(Sections(pages.dashboard.renderer.view(page)));
    let wanted = Wanted { format: Format::EventStream, lines, tail: 0, behind: last, updates: Some(updates) };
    live::respond(access, &request, payload, shared.into_inner(), pages.into_inner(), wanted).await
}

/// The sections of a page, as they change.
struct Sections(Viewer);

impl Updates for Sections {
    fn first<'a>(&'a mut self, shared: &'a Shared, pages: &'a Pages, _: u64) -> LocalBoxFuture<'a, String> {
        // All sections: the page may be older than the stream.
        self.next(shared, pages)
    }

    fn next<'a>(&'a mut self, shared: &'a Shared, pages: &'a Pages) -> LocalBoxFuture<'a, String> {
        let next = async move {
            let mut out = String::new();
            match self.0.changes(&pages.dashboard, shared, &pages.turns).await {
                Some(changes) => changes.iter().for_each(|section| put_event(&mut out, "section", None, section)),
                None => put_event(&mut out, "missing", None, "{}"),
            }
            out
        };
        next.boxed_local()
    }

    fn records(&mut self, _: &Shared) -> Vec<(u64, String)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn colours_are_read_from_the_cookie() {
        for (cookie, theme) in [
            ("unifaas-theme=dark", Theme::Dark),
            ("a=b; unifaas-theme=light; c=d", Theme::Light),
            ("unifaas-theme=<script>", Theme::System),
            ("a=b", Theme::System),
        ] {
            let request = TestRequest::get().insert_header((header::COOKIE, cookie)).to_http_request();
            assert_eq!(super::theme(&request), theme, "{cookie}");
        }
    }
}
