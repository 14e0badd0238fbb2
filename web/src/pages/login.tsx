/** Logging in: user and password, and a one-time code when auth asks for it. */

import { useState } from "preact/hooks";
import { type ApiError, asError } from "../api";
import { Button, Note, Trouble } from "../parts/basics";
import { CodeField, Field } from "../parts/fields";
import { lastUser, logIn } from "../session";
import { Outside } from "./outside";

export function LoginPage({ why }: { why: string }) {
  const [user, setUser] = useState(lastUser);
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const [asksCode, setAsksCode] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await logIn(user.trim(), password, asksCode ? code : "");
    } catch (found) {
      const refused = asError(found);
      if (refused.code === "otp_required" && !asksCode) {
        setAsksCode(true);
      } else {
        setError(refused);
        setCode("");
        if (refused.code === "bad_credentials" && !asksCode) setPassword("");
      }
    } finally {
      setBusy(false);
    }
  };
  return (
    <Outside title={asksCode ? "Second factor" : "Log in"}>
      {why && !error && <Note>{why}</Note>}
      <form onSubmit={(event) => void submit(event)}>
        {asksCode ? (
          <>
            <p>The password is right. Now the code that your authenticator app shows for {user}.</p>
            <CodeField value={code} onValue={setCode} focus />
          </>
        ) : (
          <>
            <Field label="User" value={user} onValue={setUser} autocomplete="username" autocapitalize="none" spellcheck={false} required focus={!user} />
            <Field label="Password" type="password" value={password} onValue={setPassword} autocomplete="current-password" required focus={Boolean(user)} />
          </>
        )}
        <Trouble error={error} />
        <Button type="submit" kind="main" disabled={busy}>
          {busy ? "One moment" : "Log in"}
        </Button>
        {asksCode && (
          <Button
            kind="quiet"
            onClick={() => {
              setAsksCode(false);
              setPassword("");
              setError(null);
            }}
          >
            Somebody else
          </Button>
        )}
      </form>
      {!asksCode && <p class="hint">New here? Open the invitation that your administrator sent you. Password forgotten? They can send another.</p>}
    </Outside>
  );
}
