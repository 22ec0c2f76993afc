//! Alerts that reach a webhook and a mail box.

use super::{Asked, LOOK, LOOKS};
use actix_web::{App, HttpResponse, HttpServer, web};
use lifeboat::drivers::lab::Fault;
use lifeboat::service::Config;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
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

/// A mail server that takes every mail, after it has put the first off.
struct MailServer {
    port: u16,
    mails: Arc<Mutex<Vec<String>>>,
}

impl MailServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mails: Arc<Mutex<Vec<String>>> = Arc::default();
        let taken = Arc::clone(&mails);
        std::thread::spawn(move || {
            let mut put_off = false;
            for client in listener.incoming() {
                let client = client.unwrap();
                // A client that goes silent in the middle is no reason to wait for it.
                client.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
                let _ = converse(&client, &mut put_off, &taken);
            }
        });
        Self { port, mails }
    }

    async fn until(&self, count: usize) -> Vec<String> {
        for _ in 0..LOOKS {
            if count <= self.mails.lock().unwrap().len() {
                break;
            }
            actix::clock::sleep(LOOK).await;
        }
        let mails = self.mails.lock().unwrap().clone();
        assert_eq!(mails.len(), count, "{mails:#?}");
        mails
    }
}

/// One conversation of SMTP (RFC 5321, 4.1).
fn converse(
    client: &TcpStream,
    put_off: &mut bool,
    mails: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let say = |text: &str| {
        let mut client = client;
        write!(client, "{text}\r\n")
    };
    say("220 sink")?;
    while let Some(line) = lines.next().transpose()? {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "DATA" if !std::mem::replace(put_off, true) => say("451 try again later")?,
            "DATA" => {
                say("354 go on")?;
                let body = lines.by_ref().map_while(Result::ok).take_while(|line| line != ".");
                mails.lock().unwrap().push(body.collect::<Vec<_>>().join("\n"));
                say("250 taken")?;
            }
            "QUIT" => return say("221 bye"),
            _ => say("250 ok")?,
        }
    }
    Ok(())
}

/// A mail as it is read: its lines joined where they were folded, and what was encoded as the mail says.
fn readable(mail: &str) -> String {
    mail.replace("=\n", "").replace("=3D", "=").replace("\n ", " ")
}

#[test]
fn a_mail_says_what_became_critical_and_when_it_is_over_and_which_plan_waits() {
    let folder = tempfile::tempdir().unwrap();
    actix::System::new().block_on(async {
        let server = MailServer::start();
        let mail = format!(
            "[alerts.mail]\nserver = \"smtp://127.0.0.1:{}\"\nfrom = \"Lifeboat <boat@example.org>\"\n\
             to = [\"Ops <ops@example.org>\", \"night@example.org\"]\n",
            server.port
        );
        let asked = Asked::start_with(&folder, "127.0.0.1:0", &mail).await;
        asked.until("Protected").await;
        asked.service.faults.raise(Fault::LinkCut);
        server.until(1).await;
        // The server has said so, and the service has taken note.
        let note = folder.path().join("data/alerts-mail.json");
        for _ in 0..LOOKS {
            if std::fs::read_to_string(&note).is_ok_and(|told| told.contains("SR-2101")) {
                break;
            }
            actix::clock::sleep(LOOK).await;
        }
        asked.service.stop().await;
        // What was told is not told again by the next start; the end of it is.
        let asked = Asked::start_with(&folder, "127.0.0.1:0", &mail).await;
        let mails = server.until(2).await;
        let (begun, ended) = (readable(&mails[0]), readable(&mails[1]));
        assert!(begun.contains("Subject: [Lifeboat] Critical: vault vault-1: SR-2101"), "{begun}");
        assert!(begun.contains("From: Lifeboat <boat@example.org>"), "{begun}");
        assert!(begun.contains("ops@example.org") && begun.contains("night@example.org"), "{begun}");
        for told in ["because  SR-2101", "affects  web-01", "next     ", "do       "] {
            assert!(begun.contains(told), "{told}: {begun}");
        }
        assert!(ended.contains("Subject: [Lifeboat] Cleared: vault vault-1"), "{ended}");

        let manual = json!({ "name": "look", "manual": "open the shop" });
        let shop = json!({ "group": [{ "vms": ["web-01"], "before": [manual] }] });
        let put = asked.request("PUT", "plans/shop").bearer_auth(&asked.token);
        assert_eq!(super::answer(put.body(shop.to_string())).await.status, 200);
        asked.until("Protected").await;
        let test = json!({ "kind": "test", "network": "lab" });
        assert_eq!(asked.post("plans/shop/run", &test).await.status, 202);
        let waits = readable(&server.until(3).await[2]);
        assert!(waits.contains("the test run of shop waits: \"look\" is to be done"), "{waits}");
        assert!(waits.contains("lifeboat plan continue shop"), "{waits}");
        asked.service.stop().await;
    });
}

#[test]
fn a_mail_server_that_would_see_a_password_in_the_open_is_refused() {
    let refused = |mail: &str| {
        let text = format!("data = \"d\"\n[alerts.mail]\n{mail}\n");
        let config = Config::parse(&text, Path::new("test.toml"));
        config.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let who = "from = \"a@example.org\"\nto = [\"b@example.org\"]\n";
    let login = "user = \"u\"\npassword_file = \"p\"\n";
    let good = ["smtps://mail.example.org", "smtp://mail.example.org:587?tls=required"];
    for server in good {
        assert_eq!(refused(&format!("server = \"{server}\"\n{who}{login}")), "");
    }
    for (wrong, why) in [
        (format!("server = \"smtp://mail.example.org\"\n{who}{login}"), "in the open"),
        (
            format!("server = \"smtp://mail.example.org?tls=opportunistic\"\n{who}{login}"),
            "in the open",
        ),
        (format!("server = \"smtps://u:p@mail.example.org\"\n{who}"), "password_file"),
        (format!("server = \"smtps://mail.example.org\"\n{who}user = \"u\"\n"), "password_file"),
        (format!("server = \"mail.example.org\"\n{who}"), "alerts.mail.server"),
        ("server = \"smtps://m\"\nfrom = \"a@example.org\"\nto = []\n".to_owned(), "nobody"),
        (
            "server = \"smtps://m\"\nfrom = \"nobody\"\nto = [\"b@example.org\"]\n".to_owned(),
            "no address",
        ),
    ] {
        let error = refused(&wrong);
        assert!(error.contains(why), "{wrong}: {error}");
    }
}
