//! A FIDO2 token in software, made from OpenSSH's PROTOCOL.u2f and not from the code that it tests.

use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};
use tagout_proto::sshsig::{self, PublicKey};

pub(crate) const TOUCHED: u8 = 0x01;
pub(crate) const PIN: u8 = 0x04;

#[derive(Clone)]
pub(crate) struct Token {
    pub key: SigningKey,
    pub application: &'static str,
    /// What the token will say of its user, true or not.
    pub flags: u8,
    pub counter: u32,
}

impl Token {
    /// One that was touched, and that nobody gave a PIN.
    pub(crate) fn of(who: u8) -> Self {
        Self { key: SigningKey::from_bytes(&[who; 32]), application: "ssh:", flags: TOUCHED, counter: 7 }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        let key = self.key.verifying_key().to_bytes();
        PublicKey::SkEd25519 { key, application: self.application.into() }
    }

    /// The signature in SSH wire form over the bytes `signed`.
    pub(crate) fn sign_bytes(&self, signed: &[u8]) -> Vec<u8> {
        let counter = self.counter.to_be_bytes();
        let message =
            [&Sha256::digest(self.application)[..], &[self.flags], &counter, &Sha256::digest(signed)[..]]
                .concat();
        let signature = self.key.sign(&message).to_bytes();
        let name = b"sk-ssh-ed25519@openssh.com";
        [&[0, 0, 0, 26], &name[..], &[0, 0, 0, 64], &signature, &[self.flags], &counter].concat()
    }

    /// The armored signature of a document.
    pub(crate) fn sign(&self, document: &[u8]) -> String {
        let signed = sshsig::to_be_signed(sshsig::NAMESPACE, document);
        sshsig::armor(&self.public_key().blob(), sshsig::NAMESPACE, &self.sign_bytes(&signed))
    }
}
