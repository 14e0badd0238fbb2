/** One's own account: where one is logged in, and second factors. Administrators see everybody's web sessions. */

import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ApiError, ask, part } from "../api";
import { Badge, Button, Empty, Head, Loading, Trouble, When } from "../parts/basics";
import { Ask } from "../parts/dialog";
import { CodeField, Field } from "../parts/fields";
import { useAsked } from "../parts/asked";
import { Qr } from "../parts/qr";
import { Table } from "../parts/table";
import { may } from "../session";
import type { Factor, Totp, WebSession } from "../types";

export function AccountPage({ me }: PageProps) {
  return (
    <>
      <Head
        title="Your account"
        note={
          <>
            {me.user}, with the roles {me.roles.join(", ") || "none"}. You log in again <When at={me.ends} />.
          </>
        }
      />
      <Sessions me={me} />
      <Factors />
    </>
  );
}

function Sessions({ me }: PageProps) {
  const { answer, error, reload } = useAsked<{ sessions: WebSession[] }>("/web/api/v1/web/sessions", 10_000);
  const [ending, setEnding] = useState<WebSession | null>(null);
  const everybody = may(me, "users", "read");
  return (
    <section class="section" aria-labelledby="web-sessions">
      <header>
        <h2 id="web-sessions">{everybody ? "Web sessions of everybody" : "Where you are logged in"}</h2>
      </header>
      <Trouble error={error} again={() => void reload()} />
      {!answer && !error && <Loading />}
      {answer && (
        <Table
          label="Web sessions"
          rows={[...answer.sessions].sort((a, b) => b.seen - a.seen)}
          id={(session) => session.id}
          columns={[
            {
              title: "Browser",
              class: "name",
              show: (session) => (
                <>
                  <strong>{browser(session.agent)}</strong>
                  {session.id === me.session && <small>this one</small>}
                </>
              ),
            },
            { title: "User", show: (session) => session.user },
            { title: "From", show: (session) => <span class="mono">{session.source}</span> },
            { title: "Since", class: "nowrap", show: (session) => <When at={session.created} /> },
            { title: "Last seen", class: "nowrap", show: (session) => <When at={session.seen} /> },
            {
              title: "Actions",
              hidden: true,
              class: "actions",
              show: (session) =>
                session.id === me.session ? (
                  <Badge tone="good">here</Badge>
                ) : (
                  (session.user === me.user || may(me, "users", "update")) && (
                    <Button small icon="out" aria-label={`End the web session of ${session.user} from ${session.source}`} onClick={() => setEnding(session)}>
                      End
                    </Button>
                  )
                ),
            },
          ]}
        />
      )}
      {ending && (
        <Ask
          title={`End the web session of ${ending.user}?`}
          yes="End it"
          danger
          onClose={() => setEnding(null)}
          act={async () => {
            await ask(`/web/api/v1/web/sessions/${part(ending.id)}`, { method: "DELETE" });
            setEnding(null);
            await reload();
          }}
        >
          <p>That browser is logged out at once, and its terminals end.</p>
        </Ask>
      )}
    </section>
  );
}

function Factors() {
  const { answer, error, reload } = useAsked<{ factors: Factor[]; second_factor: string }>("/web/api/v1/mfa");
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState<Factor | null>(null);
  const done = async () => {
    setAdding(false);
    setRemoving(null);
    await reload();
  };
  const off = answer?.second_factor === "off";
  return (
    <section class="section" aria-labelledby="factors">
      <header>
        <h2 id="factors">Second factors</h2>
        {answer && !off && answer.factors.length > 0 && (
          <Button icon="plus" onClick={() => setAdding(true)}>
            Add another
          </Button>
        )}
      </header>
      <Trouble error={error} again={() => void reload()} />
      {answer && off && <p class="dim">This cluster asks for no second factor. An administrator can change that.</p>}
      {answer && !off && answer.factors.length === 0 && (
        <Empty icon="roles" title="The password is all that keeps others out">
          <p>With a second factor, a code from an app on your phone is asked for, too.</p>
          <Button kind="main" icon="plus" onClick={() => setAdding(true)}>
            Add a second factor
          </Button>
        </Empty>
      )}
      {answer && answer.factors.length > 0 && (
        <Table
          label="Second factors"
          rows={answer.factors}
          id={(factor) => factor.id}
          columns={[
            { title: "Name", class: "name", show: (factor) => <strong>{factor.name}</strong> },
            { title: "Kind", show: () => "authenticator app" },
            { title: "Since", class: "nowrap", show: (factor) => <When at={factor.created} /> },
            {
              title: "Actions",
              hidden: true,
              class: "actions",
              show: (factor) => (
                <Button small icon="trash" aria-label={`Remove ${factor.name}`} onClick={() => setRemoving(factor)}>
                  Remove
                </Button>
              ),
            },
          ]}
        />
      )}
      {adding && <AddFactor first={answer?.factors.length === 0} onClose={() => setAdding(false)} onDone={done} />}
      {removing && <RemoveFactor factor={removing} onClose={() => setRemoving(null)} onDone={done} />}
    </section>
  );
}

function AddFactor({ first, onClose, onDone }: { first: boolean; onClose: () => void; onDone: () => Promise<void> }) {
  const [name, setName] = useState("phone");
  const [old, setOld] = useState("");
  const [code, setCode] = useState("");
  const [begun, setBegun] = useState<{ id: string; totp: Totp } | null>(null);
  return (
    <Ask
      title="A second factor"
      yes={begun ? "Confirm" : "Next"}
      onClose={onClose}
      act={async () => {
        if (!begun) {
          setBegun(await ask("/web/api/v1/mfa", { method: "POST", body: { name: name.trim(), ...(first ? {} : { otp: old }) } }));
          return;
        }
        await ask(`/web/api/v1/mfa/${part(begun.id)}/confirm`, { method: "POST", body: { otp: code } });
        await onDone();
      }}
    >
      {!begun && <Field label="What it is called" value={name} onValue={setName} required maxLength={40} />}
      {!begun && !first && <CodeField value={old} onValue={setOld} />}
      {begun && (
        <>
          <p>Scan this with an authenticator app, and type the code that it shows.</p>
          <Qr rows={begun.totp.qr} label="QR code for your authenticator app" />
          <details>
            <summary>It cannot be scanned</summary>
            <code class="secret">{begun.totp.secret}</code>
          </details>
          <CodeField value={code} onValue={setCode} />
        </>
      )}
    </Ask>
  );
}

function RemoveFactor({ factor, onClose, onDone }: { factor: Factor; onClose: () => void; onDone: () => Promise<void> }) {
  const [code, setCode] = useState("");
  return (
    <Ask
      title={`Remove ${factor.name}?`}
      yes="Remove"
      danger
      onClose={onClose}
      act={async () => {
        if (!code) throw new ApiError("bad_code", "A code is needed.", "Of this factor or another one of yours.");
        await ask(`/web/api/v1/mfa/${part(factor.id)}/remove`, { method: "POST", body: { otp: code } });
        await onDone();
      }}
    >
      <p>A code of it, or of another one of yours, proves that it is you.</p>
      <CodeField value={code} onValue={setCode} focus />
    </Ask>
  );
}

/** "Firefox on Android": what people know their browsers by. */
export function browser(agent: string): string {
  const program = /(Firefox|Edg|OPR|Chrome|Safari)\//.exec(agent)?.[1];
  const system = /(Android|iPhone|iPad|Windows|Mac OS X|CrOS|Linux)/.exec(agent)?.[1];
  const names: Record<string, string> = { Edg: "Edge", OPR: "Opera", "Mac OS X": "macOS", CrOS: "ChromeOS" };
  if (!program) return agent.slice(0, 40) || "unknown";
  const known = (word: string) => names[word] ?? word;
  return system ? `${known(program)} on ${known(system)}` : known(program);
}
