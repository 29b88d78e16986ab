//! Any bytes as the form of a command. See `tests/fuzz/lib.rs` for how.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use tagout_fuzz::{Answer, Target, check_sentence, mutate};

use super::*;

const BOUNDARY: &str = "b0undary";

fn form(parts: &[(&str, &str)]) -> String {
    let part = |(name, text): &(&str, &str)| {
        let filename = if text.len() % 2 == 0 { "; filename=\"x.json\"" } else { "" };
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n\r\n{text}\r\n")
    };
    parts.iter().map(part).collect::<String>() + &format!("--{BOUNDARY}--\r\n")
}

async fn read(body: &[u8]) -> Result<Envelope, Problem> {
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let request = Request::builder().header(header::CONTENT_TYPE, content_type);
    let request = request.body(Body::from(body.to_vec())).unwrap();
    match WholeForm::from_request(request, &()).await {
        Ok(WholeForm(form)) => read_envelope(form, COMMAND).await,
        Err(FormRejection::Body(problem)) => Err(problem),
        Err(FormRejection::NotMultipart) => unreachable!("its type says so"),
    }
}

#[test]
fn command_form() {
    let (document, signature) =
        ("{\"tagout\":1,\r\n\"reason\":\"é\"}", "-----BEGIN SSH SIGNATURE-----\nAA==\n");
    let many: Vec<_> = (0..SIGNATURES_MAX + 1).map(|_| ("signature", "x")).collect();
    let seeds = [
        form(&[("command", document), ("signature", signature)]),
        form(&[("signature", signature), ("command", document), ("signature", "")]),
        form(&[("command", "")]),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let target = Target::new("form", seeds.clone()).extra_bytes(1 << 20).make(|random| {
        let mut parts = vec![("command", document), ("signature", signature)];
        match random.below(4) {
            0 => parts.extend(&many[random.below(many.len())..]),
            1 => {
                parts.push(random.pick(&[("command", "{}"), ("signature", ""), ("signatur", "x"), ("", "")]))
            }
            2 => parts.reverse(),
            _ => {}
        }
        let form = form(&parts);
        if random.one_in(4) { form.into_bytes() } else { mutate::lines(random, &form).into_bytes() }
    });
    target.check(|bytes| match runtime.block_on(read(bytes)) {
        Ok(envelope) => {
            assert!(
                envelope.document.len() <= COMMAND_MAX_BYTES && envelope.signatures.len() <= SIGNATURES_MAX
            );
            // S8: what was sent is kept verbatim, so it stands in the body as it is.
            for text in std::iter::once(&envelope.document).chain(&envelope.signatures) {
                assert!(text.len() <= COMMAND_MAX_BYTES);
                assert!(text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes()));
            }
            Answer::Taken
        }
        Err(problem) => {
            assert!(problem.status().is_client_error(), "{problem:?}");
            check_sentence(problem.detail());
            Answer::Refused
        }
    });
}
