//! `/healthz`: the process is alive. `/readyz`: it can do its work, with every check and its reason. Beside
//! them, the routes of the control API.

use super::running::ServiceError;
use crate::actors::Site;
use crate::api::{self, Control};
use crate::domain::vault::Vault;
use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde::Serialize;
use std::net::SocketAddr;
use uuid::Uuid;

/// Seconds that open requests get when the service stops.
const SHUTDOWN_S: u64 = 1;

#[derive(Clone)]
struct Checked {
    site: Site,
    vault: Uuid,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: String,
    ok: bool,
    /// Whether the service is not ready without it.
    required: bool,
    because: Option<String>,
}

/// Serves both on `listen`, and the control if there is one; answers the address that it got.
pub(super) fn serve(
    listen: SocketAddr,
    site: Site,
    vault: Uuid,
    control: Option<Control>,
) -> Result<(ServerHandle, SocketAddr), ServiceError> {
    let checked = Checked { site, vault };
    let control = control.map(web::Data::new);
    let server = HttpServer::new(move || {
        let app = App::new()
            .app_data(web::Data::new(checked.clone()))
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz));
        let control = control.clone();
        app.configure(|app| {
            if let Some(control) = control {
                api::configure(app, control);
            }
        })
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(SHUTDOWN_S)
    .bind(listen)
    .map_err(|source| ServiceError::Listen { address: listen.to_string(), source })?;
    let address = server.addrs().first().copied().unwrap_or(listen);
    let server = server.run();
    let handle = server.handle();
    actix::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "serve health checks and control");
        }
    });
    Ok((handle, address))
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(checked: web::Data<Checked>) -> HttpResponse {
    let failed = checked.site.failed().borrow().clone();
    let log = Check {
        name: "event log takes commits".to_owned(),
        ok: failed.is_none(),
        required: true,
        because: failed,
    };
    // A vault that is away is what Lifeboat is built to wait for.
    let checks = vec![log, vault_check(&checked).await];
    let ready = checks.iter().all(|check| check.ok || !check.required);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(&Readiness { ready, checks }) {
        Ok(body) => HttpResponse::build(status).content_type("application/json").body(body + "\n"),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn vault_check(checked: &Checked) -> Check {
    let because = match checked.site.state::<Vault>(checked.vault).await {
        Ok(vault) => vault.unreachable.map(|(_, failure)| failure.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let name = "vault can be reached".to_owned();
    Check { name, ok: because.is_none(), required: false, because }
}
