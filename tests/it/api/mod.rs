//! The control API: its routes, against a real service in a folder of its own.

mod alerts;
mod clusters;
mod commands;
mod endpoint;
mod failback;
mod life;
mod plan;
mod refusals;
mod views;

use lifeboat::drivers::lab::AfterBoot;
use lifeboat::service::{Config, Service};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Looks at something that must come, and the time between two.
const LOOKS: usize = 600;
const LOOK: Duration = Duration::from_millis(50);

/// A VM whose disk nobody writes to but whoever connects, with a delta every second.
const VM: &str = r#"
[policy]
copy_frequency_s = 1
resync_window = "always"
[[host]]
name = "host-1"
[[host.vm]]
name = "web-01"
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 4 }]
"#;

/// A running service, and the way to ask it.
struct Asked {
    service: Service,
    http: reqwest::Client,
    token: String,
}

/// What was answered: status, type of content, body.
#[derive(Debug)]
struct Answer {
    status: u16,
    content: String,
    body: Value,
}

impl Asked {
    async fn start(folder: &TempDir, listen: &str) -> Self {
        Self::start_with(folder, listen, "").await
    }

    /// A service with more in its configuration.
    async fn start_with(folder: &TempDir, listen: &str, more: &str) -> Self {
        let data = folder.path().join("data");
        let text = format!("data = '{}'\nlisten = \"{listen}\"\n{more}{VM}", data.display());
        Self::start_of(folder, &text).await
    }

    /// A service of this configuration, whose data is in a folder.
    async fn start_of(folder: &TempDir, text: &str) -> Self {
        let data = folder.path().join("data");
        let config = Config::parse(text, Path::new("test.toml")).unwrap();
        let service = Service::start(&config, AfterBoot::Idle).await.unwrap();
        let token = std::fs::read_to_string(data.join("control.token")).unwrap_or_default();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { service, http, token: token.trim().to_owned() }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/lifeboat/v1/{path}", self.service.address);
        self.http.request(method.parse().unwrap(), url)
    }

    async fn get(&self, path: &str) -> Answer {
        answer(self.request("GET", path).bearer_auth(&self.token)).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.request("POST", path).bearer_auth(&self.token);
        answer(request.body(body.to_string())).await
    }

    /// A command under an id of its own.
    async fn post_as(&self, id: &str, path: &str, body: &Value) -> Answer {
        let request = self.request("POST", path).bearer_auth(&self.token);
        let request = request.header("Lifeboat-Request-Id", id).header("Lifeboat-Actor", "alice");
        answer(request.body(body.to_string())).await
    }

    /// Waits until the VM is in a state.
    async fn until(&self, state: &str) -> Value {
        let mut last = Value::Null;
        for _ in 0..LOOKS {
            last = self.get("vms/web-01").await.body;
            if last["state"] == state {
                return last;
            }
            actix::clock::sleep(LOOK).await;
        }
        panic!("it did not become {state}: {last:#}");
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let content = response.headers().get("content-type");
    let content = content.map_or_else(String::new, |it| it.to_str().unwrap().to_owned());
    let body = response.bytes().await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Answer { status, content, body }
}

/// Runs a test against a service whose VM is protected.
fn with_protected_vm(test: impl AsyncFnOnce(&Asked)) {
    let folder = tempfile::tempdir().unwrap();
    actix::System::new().block_on(async {
        let asked = Asked::start(&folder, "127.0.0.1:0").await;
        asked.until("Protected").await;
        test(&asked).await;
        asked.service.stop().await;
    });
}

fn nothing() -> Value {
    json!({})
}
