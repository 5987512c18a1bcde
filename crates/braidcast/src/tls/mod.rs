//! The attendant that takes TLS off.
use crate::attendant::{Attendant, Said};
pub async fn serve(mut attendant: Attendant) -> anyhow::Result<()> {
    loop {
        match attendant.next().await {
            Said::End | Said::Retire => return Ok(()),
            _ => {}
        }
    }
}
