/** Accepting an invitation: a password, and a second factor where the cluster wants one. */

import { useEffect, useState } from "preact/hooks";
import { ApiError, ask, asError } from "../api";
import { Button, CopyButton, Loading, Trouble, When } from "../parts/basics";
import { CodeField, Field, Tick } from "../parts/fields";
import { Qr } from "../parts/qr";
import { keepFor, logIn } from "../session";
import type { Invitation } from "../types";
import { Outside } from "./outside";

export function InvitationPage({ onDone }: { onDone: () => void }) {
  const [invitation, setInvitation] = useState<Invitation | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const secret = location.hash.slice(1);
  const load = async () => {
    setError(null);
    try {
      if (!secret) throw new ApiError("bad_token", "This address is not whole.", "Open the link of your invitation as it was sent to you, with everything after the #.");
      setInvitation(await ask<Invitation>("/web/api/invitation", { method: "POST", body: { invitation: secret } }));
    } catch (found) {
      setError(asError(found));
    }
  };
  useEffect(() => void load(), []);
  if (error) {
    return (
      <Outside title="Your invitation">
        <Trouble error={error} again={error.code === "unavailable" || error.code === "slow_down" ? () => void load() : undefined} />
        <p class="hint">An invitation is good once, and for a limited time. Ask your administrator for another one.</p>
        <p>
          <a href="/" onClick={onDone}>
            I have an account already
          </a>
        </p>
      </Outside>
    );
  }
  return invitation ? <SignUp invitation={invitation} secret={secret} onDone={onDone} /> : <Loading />;
}

function SignUp({ invitation, secret, onDone }: { invitation: Invitation; secret: string; onDone: () => void }) {
  const totp = invitation.totp;
  const needed = invitation.second_factor === "required";
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [code, setCode] = useState("");
  const [factor, setFactor] = useState(Boolean(totp));
  const [error, setError] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setError(null);
    if (password !== again) {
      setError(new ApiError("bad_password", "The two passwords differ.", "Type the same one twice."));
      return;
    }
    setBusy(true);
    try {
      const body = { invitation: secret, password, ...(factor ? { otp: code } : {}) };
      await ask("/web/api/signup", { method: "POST", body });
      try {
        // A code counts once, so whoever has a factor logs in with the next one.
        if (factor) keepFor(invitation.user, "Your account is ready. Log in, with the next code that the app shows.");
        else await logIn(invitation.user, password, "");
      } finally {
        onDone();
      }
    } catch (found) {
      setError(asError(found));
      setCode("");
    } finally {
      setBusy(false);
    }
  };
  return (
    <Outside
      title={`Welcome, ${invitation.user}`}
      note={
        <>
          You are invited to <strong>{invitation.cluster}</strong>. The invitation ends <When at={invitation.expires} />.
        </>
      }
    >
      <form onSubmit={(event) => void submit(event)}>
        <input type="text" name="username" autocomplete="username" value={invitation.user} readOnly hidden />
        <Field
          label="New password"
          type="password"
          value={password}
          onValue={setPassword}
          autocomplete="new-password"
          required
          focus
          hint="Long is better than complicated: a few words that belong together only in your head."
        />
        <Field label="The same again" type="password" value={again} onValue={setAgain} autocomplete="new-password" required />
        {totp && !needed && <Tick label="With a second factor" hint="A code from an app on your phone, beside the password. Recommended." on={factor} onTick={setFactor} />}
        {totp && factor && (
          <fieldset class="totp">
            <legend>Second factor</legend>
            <Qr rows={totp.qr} label="QR code for your authenticator app" />
            <div>
              <p>
                Scan this with an authenticator app: Aegis, 1Password, Google Authenticator or another. Is the app on this very device? <a href={totp.uri}>Open it there</a>.
              </p>
              <details>
                <summary>It cannot be scanned</summary>
                <p>Type this key into the app:</p>
                <code class="secret">{totp.secret}</code> <CopyButton text={totp.secret} />
              </details>
              <CodeField value={code} onValue={setCode} />
            </div>
          </fieldset>
        )}
        <Trouble error={error} />
        <Button type="submit" kind="main" disabled={busy}>
          {busy ? "One moment" : "Accept"}
        </Button>
      </form>
    </Outside>
  );
}
