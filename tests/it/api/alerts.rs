//! Alerts that reach a webhook.

use super::{Asked, LOOK, LOOKS};
use actix_web::{App, HttpResponse, HttpServer, web};
use lifeboat::drivers::lab::Fault;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// What a webhook was told; it answers the first request with an error.
#[derive(Default)]
struct Told {
    refused: bool,
    alerts: Vec<Value>,
}

async fn hook(told: web::Data<Mutex<Told>>, body: web::Bytes) -> HttpResponse {
    let mut told = told.lock().unwrap();
    if !std::mem::replace(&mut told.refused, true) {
        return HttpResponse::ServiceUnavailable().finish();
    }
    told.alerts.push(serde_json::from_slice(&body).unwrap());
    HttpResponse::Ok().finish()
}

async fn until(told: &Mutex<Told>, count: usize) {
    for _ in 0..LOOKS {
        if count <= told.lock().unwrap().alerts.len() {
            return;
        }
        actix::clock::sleep(LOOK).await;
    }
    panic!("only this was told: {:#?}", told.lock().unwrap().alerts);
}

#[test]
fn a_vault_that_is_away_is_told_once_and_once_more_when_it_is_back_also_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    actix::System::new().block_on(async {
        let told = web::Data::from(Arc::new(Mutex::new(Told::default())));
        let data = told.clone();
        let server = HttpServer::new(move || {
            App::new().app_data(data.clone()).default_service(web::to(hook))
        });
        let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let webhook = format!("[alerts]\nwebhook = \"http://{}/hook\"\n", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        actix::spawn(server);

        let asked = Asked::start_with(&folder, "127.0.0.1:0", &webhook).await;
        asked.until("Protected").await;
        asked.service.faults.raise(Fault::LinkCut);
        until(&told, 1).await;
        asked.service.stop().await;

        // The vault is there when the service starts again: only the end is left to be told.
        let asked = Asked::start_with(&folder, "127.0.0.1:0", &webhook).await;
        until(&told, 2).await;
        asked.service.stop().await;
        handle.stop(false).await;
        let alerts = &told.lock().unwrap().alerts;
        let states: Vec<_> = alerts.iter().map(|alert| alert["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["active", "cleared"], "{alerts:#?}");
        assert_eq!(alerts[0]["key"], "SR-2101 vault vault-1");
        assert_eq!(alerts[0]["key"], alerts[1]["key"]);
        assert_eq!(alerts[0]["level"], "Critical");
        assert!(!alerts[0]["next"].as_str().unwrap().is_empty(), "{alerts:#?}");
    });
}
