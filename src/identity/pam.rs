//! The operating system's PAM: whether it lets a user with a password in.
//!
//! Owns the conversation with it. Modules of PAM may take their time, or hang: each check has a thread, there are at most
//! [`AT_ONCE`] of these, one that hangs counts until it returns, and nobody waits for one longer than [`LIMIT`].

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use crate::alarm::timeout;
use nonstick::items::ItemsMut;
use nonstick::{
    AuthnFlags, ConversationAdapter, ErrorCode, PamShared, Result as PamResult, Transaction,
    TransactionBuilder,
};
use tokio::sync::{Semaphore, oneshot};

use crate::config::secret::Password;

/// How long a check may take, the wait for its turn included.
const LIMIT: Duration = Duration::from_secs(30);
/// Threads.
const AT_ONCE: usize = 16;

/// PAM, with its threads.
#[derive(Debug)]
pub(super) struct Pam(Arc<Semaphore>);

impl Default for Pam {
    fn default() -> Pam {
        Pam(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Pam {
    /// Whether the service lets this user in with this password, from this host.
    ///
    /// # Errors
    /// Why nobody can tell, for the log.
    pub(super) async fn check(
        &self,
        service: &str,
        user: &str,
        password: &Password,
        host: String,
    ) -> Result<bool, String> {
        let question = Question { service: service.to_owned(), user: user.to_owned(), host };
        let answers = Answers { user: user.to_owned(), password: password.clone() };
        let check = async {
            let turn = self.0.clone().acquire_owned().await.map_err(|error| error.to_string())?;
            let (sender, answer) = oneshot::channel();
            let work = move || {
                let outcome = ask(&question, answers);
                drop(turn);
                let _ = sender.send(outcome);
            };
            std::thread::Builder::new().name("pam".into()).spawn(work).map_err(|error| error.to_string())?;
            answer.await.map_err(|_| "the check was interrupted".to_owned())?
        };
        let late = || format!("no answer within {} s", LIMIT.as_secs());
        timeout(LIMIT, check).await.unwrap_or_else(|_| Err(late()))
    }
}

/// What is asked.
struct Question {
    service: String,
    user: String,
    host: String,
}

fn ask(question: &Question, answers: Answers) -> Result<bool, String> {
    let outcome = || -> PamResult<()> {
        let mut transaction = TransactionBuilder::new_with_service(&question.service)
            .username(&question.user)
            .build(answers.into_conversation())?;
        transaction.items_mut().set_remote_host(Some(OsStr::new(&question.host)))?;
        transaction.authenticate(AuthnFlags::empty())?;
        transaction.account_management(AuthnFlags::empty())
    };
    match outcome() {
        Ok(()) => Ok(true),
        Err(
            ErrorCode::AuthenticationError
            | ErrorCode::UserUnknown
            | ErrorCode::PermissionDenied
            | ErrorCode::MaxTries
            | ErrorCode::AccountExpired
            | ErrorCode::NewAuthTokRequired
            | ErrorCode::CredentialsInsufficient,
        ) => Ok(false),
        Err(error) => Err(format!("service {:?}: {error}", question.service)),
    }
}

/// Answers what PAM asks for: the name if it may be seen, the password if not.
struct Answers {
    user: String,
    password: Password,
}

impl ConversationAdapter for Answers {
    fn prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
        Ok(self.user.clone().into())
    }

    fn masked_prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
        Ok(self.password.as_str().into())
    }

    fn error_msg(&self, message: impl AsRef<OsStr>) {
        tracing::debug!(message = ?message.as_ref(), "PAM reports an error");
    }

    fn info_msg(&self, _: impl AsRef<OsStr>) {}
}
