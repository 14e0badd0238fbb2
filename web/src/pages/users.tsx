/** Users: invite, change, reset, unlock, remove. */

import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ask, part } from "../api";
import { Badge, Button, Code, Empty, Head, Loading, Search, Trouble, When } from "../parts/basics";
import { Ask, Dialog } from "../parts/dialog";
import { Field } from "../parts/fields";
import { useAsked } from "../parts/asked";
import { QrOf } from "../parts/qr_of";
import { type Column, Table } from "../parts/table";
import { may } from "../session";
import type { Role, User } from "../types";
import { list } from "../words";

interface Invited {
  user: string;
  expires: number;
  urls: string[];
}

type Open = { is: "add" } | { is: "edit" | "reset" | "remove"; user: User } | { is: "invited"; invited: Invited } | null;

export function UsersPage({ me }: PageProps) {
  const { answer, error, reload } = useAsked<{ users: User[] }>("/web/api/v1/users", 10_000);
  const [text, setText] = useState("");
  const [open, setOpen] = useState<Open>(null);
  if (!answer) return error ? <Trouble error={error} again={() => void reload()} /> : <Loading />;
  const close = () => setOpen(null);
  const done = async (next: Open = null) => {
    setOpen(next);
    await reload();
  };
  const found = answer.users.filter((user) => [user.name, ...user.roles, ...user.logins].join(" ").toLowerCase().includes(text.toLowerCase()));
  const changes = may(me, "users", "update");
  const columns: Column<User>[] = [
    { title: "User", class: "name", show: (user) => <strong>{user.name}</strong> },
    { title: "Roles", show: (user) => user.roles.join(", ") },
    { title: "Logins", show: (user) => <span class="mono">{user.logins.join(", ")}</span> },
    {
      title: "State",
      show: (user) =>
        user.locked_until ? (
          <>
            <Badge tone="bad">too many attempts</Badge>
            <small>
              ends <When at={user.locked_until} />
            </small>
          </>
        ) : user.invited ? (
          <Badge tone="warn">invited</Badge>
        ) : (
          <Badge tone="good">active</Badge>
        ),
    },
    { title: "Since", class: "nowrap narrow-hidden", show: (user) => <When at={user.created} /> },
    {
      title: "Actions",
      hidden: true,
      class: "actions",
      show: (user) => (
        <>
          {changes && user.locked_until && (
            <Button small onClick={() => void ask(`/web/api/v1/users/${part(user.name)}/unlock`, { method: "POST" }).then(reload)}>
              Unlock
            </Button>
          )}
          {changes && <Button kind="quiet" icon="edit" title="Roles and logins" aria-label={`Change ${user.name}`} onClick={() => setOpen({ is: "edit", user })} />}
          {changes && <Button kind="quiet" icon="tokens" title="New invitation" aria-label={`New invitation for ${user.name}`} onClick={() => setOpen({ is: "reset", user })} />}
          {may(me, "users", "delete") && <Button kind="quiet" icon="trash" title="Remove" aria-label={`Remove ${user.name}`} onClick={() => setOpen({ is: "remove", user })} />}
        </>
      ),
    },
  ];
  return (
    <>
      <Head title="Users" note={`${answer.users.length} in ${me.cluster}`}>
        {answer.users.length > 5 && <Search label="Name, role, login" value={text} onInput={setText} />}
        {may(me, "users", "create") && (
          <Button kind="main" icon="plus" onClick={() => setOpen({ is: "add" })}>
            Invite somebody
          </Button>
        )}
      </Head>
      <Trouble error={error} />
      {found.length > 0 ? <Table label="Users" columns={columns} rows={found} id={(user) => user.name} /> : <Empty icon="users" title={text ? "Nobody fits" : "No users yet"} />}
      {open?.is === "add" && <UserDialog me={me} onClose={close} onDone={(invited) => done({ is: "invited", invited })} />}
      {open?.is === "edit" && <UserDialog me={me} user={open.user} onClose={close} onDone={() => done()} />}
      {open?.is === "reset" && (
        <Ask
          title={`New invitation for ${open.user.name}?`}
          yes="Reset"
          danger
          onClose={close}
          act={async () => done({ is: "invited", invited: await ask<Invited>(`/web/api/v1/users/${part(open.user.name)}/reset`, { method: "POST" }) })}
        >
          <p>Password and second factor are forgotten, and certificates that {open.user.name} has count no more. You get a link to send.</p>
        </Ask>
      )}
      {open?.is === "remove" && (
        <Ask
          title={`Remove ${open.user.name}?`}
          yes="Remove"
          danger
          onClose={close}
          act={async () => {
            await ask(`/web/api/v1/users/${part(open.user.name)}`, { method: "DELETE" });
            await done();
          }}
        >
          <p>All certificates of {open.user.name} count no more from now on. What the audit log says of them stays.</p>
        </Ask>
      )}
      {open?.is === "invited" && <InvitedDialog invited={open.invited} onClose={close} />}
    </>
  );
}

function UserDialog({ me, user, onClose, onDone }: PageProps & { user?: User; onClose: () => void; onDone: (invited: Invited) => Promise<void> }) {
  const known = useAsked<{ resources: Role[] }>(may(me, "roles", "read") ? "/web/api/v1/resources/role" : null).answer?.resources ?? [];
  const [name, setName] = useState("");
  const [roles, setRoles] = useState(user?.roles.join(", ") ?? "access");
  const [logins, setLogins] = useState(user?.logins.join(", ") ?? "");
  return (
    <Ask
      title={user ? `Change ${user.name}` : "Invite somebody"}
      yes={user ? "Save" : "Make an invitation"}
      onClose={onClose}
      act={async () => {
        const body = { roles: list(roles), logins: list(logins) };
        const path = user ? `/web/api/v1/users/${part(user.name)}` : "/web/api/v1/users";
        await onDone(await ask<Invited>(path, { method: user ? "PATCH" : "POST", body: user ? body : { ...body, name: name.trim() } }));
      }}
    >
      {!user && <Field label="Name" value={name} onValue={setName} required autocapitalize="none" spellcheck={false} focus />}
      <Field label="Roles" value={roles} onValue={setRoles} required spellcheck={false} hint={known.length ? `There are ${known.map((role) => role.name).join(", ")}.` : "Names with commas between."} />
      <Field label="Logins" value={logins} onValue={setLogins} spellcheck={false} hint="Accounts on the nodes that the roles' {{internal.logins}} stands for, with commas between: pi, root" />
    </Ask>
  );
}

function InvitedDialog({ invited, onClose }: { invited: Invited; onClose: () => void }) {
  const url = invited.urls[0] ?? "";
  return (
    <Dialog title={`An invitation for ${invited.user}`} onClose={onClose} wide>
      <div class="stack">
        <p>
          Send this link to {invited.user} and nobody else. It is good once, and ends <When at={invited.expires} />.
        </p>
        <div class="join-line">
          <Code text={url} label="Invitation" />
          <QrOf text={url} label={`QR code of the invitation for ${invited.user}`} />
        </div>
        <footer>
          <Button kind="main" onClick={onClose}>
            Done
          </Button>
        </footer>
      </div>
    </Dialog>
  );
}
