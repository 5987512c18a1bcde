//! One attempt to get a certificate: account, order, challenges, certificate. Errors say what an operator can do.

use super::state::State;
use super::{CA_COPY, answer_at};
use crate::config::Acme;
use crate::control::attendants::{Role, file_of};
use anyhow::{Context, anyhow, bail};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the authority may take to look at the answers, and to sign.
const PATIENCE: Duration = Duration::from_secs(80);

/// The answers that lie in the shared directory; they go with this.
#[derive(Default)]
struct Answers(Vec<PathBuf>);

impl Drop for Answers {
    fn drop(&mut self) {
        for path in &self.0 {
            // One that is still there is harmless: it answers a question that nobody asks any more.
            let _ = fs::remove_file(path);
        }
    }
}

/// Gets a certificate and keeps it.
pub async fn fetch(acme: &Acme, state: &State, shared_dir: &Path) -> anyhow::Result<()> {
    let account = account(acme, state, shared_dir).await?;
    let identifiers: Vec<Identifier> = acme.domains.iter().map(|name| Identifier::Dns(name.to_ascii_lowercase())).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(|error| explain("ordering", error))?;
    let answers = answer(&mut order, shared_dir).await?;
    let retries = RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.5).timeout(PATIENCE);
    let looked = order.poll_ready(&retries).await;
    if !matches!(looked, Ok(OrderStatus::Ready)) {
        let told = looked.map_err(|error| explain("waiting for the authority to look", error));
        return Err(why_invalid(&mut order).await.or(told.err()).unwrap_or_else(|| anyhow!("the authority refuses, and does not say why")));
    }
    drop(answers);
    let key = order.finalize().await.map_err(|error| explain("asking for the certificate", error))?;
    let chain = order.poll_certificate(&retries).await.map_err(|error| explain("waiting for the certificate", error))?;
    state.write_certificate(&chain, &key)
}

async fn account(acme: &Acme, state: &State, shared_dir: &Path) -> anyhow::Result<Account> {
    let builder = match acme.ca_file.as_str() {
        "" => Account::builder(),
        _ => Account::builder_with_root(file_of(shared_dir, Role::Tls, CA_COPY)),
    };
    let builder = builder.map_err(|error| anyhow!("[acme] ca_file, or the system's certificates: {}", chain_of(&error)))?;
    if let Some(credentials) = state.account(&acme.directory) {
        return builder.from_credentials(credentials).await.map_err(|error| explain("asking the directory", error));
    }
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: acme.agree, only_return_existing: false };
    let made = builder.create(&wanted, acme.directory.clone(), None).await;
    let (account, credentials) = made.map_err(|error| explain("opening an account", error))?;
    state.write_account(&acme.directory, credentials).context("keeping the account")?;
    Ok(account)
}

/// Lays the answers down where the workers find them, then says so.
async fn answer(order: &mut Order, shared_dir: &Path) -> anyhow::Result<Answers> {
    let mut answers = Answers::default();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| explain("asking for the challenges", error))?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            other => bail!("the authority says {other:?} of a name before it has looked"),
        }
        let challenge = authorization.challenge(ChallengeType::Http01);
        let mut challenge = challenge.context("the authority offers no challenge by HTTP (http-01) for a name")?;
        let path = answer_at(shared_dir, &challenge.token).context("the authority's token is none")?;
        fs::write(&path, challenge.key_authorization().as_str()).with_context(|| format!("writing {}", path.display()))?;
        answers.0.push(path);
        challenge.set_ready().await.map_err(|error| explain("saying that the answer is there", error))?;
    }
    Ok(answers)
}

/// What the authority has found wrong with an answer, if it has.
async fn why_invalid(order: &mut Order) -> Option<anyhow::Error> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let name = state.identifier().to_string();
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return Some(anyhow!(
                "the authority did not get the answer for {name} ({}): http://{name}/.well-known/acme-challenge/ at port 80 has to reach [http] listen of this server from everywhere",
                said(problem)
            ));
        }
    }
    None
}

fn said(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next()).unwrap_or("unknown");
    format!("{kind}: {}", problem.detail.as_deref().unwrap_or("nothing more"))
}

/// What went wrong, and what can be done.
fn explain(doing: &str, error: Error) -> anyhow::Error {
    let Error::Api(problem) = &error else {
        let what = "is [acme] directory right, can this machine reach it, is its certificate trusted ([acme] ca_file)?";
        return anyhow!("{doing}: {}; {what}", chain_of(&error));
    };
    let advice = match problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next()) {
        Some("rateLimited") => "the authority's limit is reached: wait, and test with its staging directory",
        Some("rejectedIdentifier" | "malformed" | "unsupportedIdentifier") => "look at [acme] domains",
        Some("invalidContact" | "unsupportedContact") => "look at [acme] contact (\"mailto:ops@example.org\")",
        Some("externalAccountRequired") => "this authority wants accounts to be made by hand, which is not supported: choose another one",
        Some("userActionRequired") => "the authority wants its new terms of service to be read and agreed to",
        Some("caa") => "a CAA record of the domain's DNS forbids this authority",
        Some("accountDoesNotExist" | "unauthorized") => {
            "the account is not known there any more: delete acme/account.json in the state directory"
        }
        _ => "the authority's message says why",
    };
    anyhow!("{doing}: {}; {advice}", said(problem))
}

/// An error with all that caused it.
fn chain_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        let problem = |kind: &str| {
            let json = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"too many"}}"#);
            explain("ordering", Error::Api(serde_json::from_str(&json).unwrap())).to_string()
        };
        assert_eq!(
            problem("rateLimited"),
            "ordering: rateLimited: too many; the authority's limit is reached: wait, and test with its staging directory"
        );
        assert!(problem("rejectedIdentifier").ends_with("look at [acme] domains"));
        assert!(explain("x", Error::Str("y")).to_string().contains("[acme] directory"));
    }
}
