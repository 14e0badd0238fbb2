/** The pages there are, and who is offered which. Auth refuses the others all the same. */

import type { ComponentType } from "preact";
import type { PageProps } from "./app";
import type { IconName } from "./parts/icons";
import { may } from "./session";
import type { Whoami } from "./types";

export interface Entry {
  page: string;
  title: string;
  icon: IconName;
  group: "work" | "manage" | "own";
  offered: (me: Whoami) => boolean;
  load: () => Promise<ComponentType<PageProps>>;
}

const everybody = () => true;
const mayWatch = (me: Whoami) => may(me, "recordings", "read") || may(me, "recordings", "list") || may(me, "recordings", "read_own");

export const ENTRIES: readonly Entry[] = [
  { page: "nodes", title: "Nodes", icon: "nodes", group: "work", offered: everybody, load: async () => (await import("./pages/nodes")).NodesPage },
  { page: "terminals", title: "Terminals", icon: "terminal", group: "work", offered: everybody, load: async () => (await import("./pages/terminals")).TerminalsPage },
  { page: "sessions", title: "Sessions", icon: "sessions", group: "work", offered: everybody, load: async () => (await import("./pages/sessions")).SessionsPage },
  { page: "recordings", title: "Recordings", icon: "recordings", group: "work", offered: mayWatch, load: async () => (await import("./pages/recordings")).RecordingsPage },
  { page: "audit", title: "Audit", icon: "audit", group: "work", offered: (me) => may(me, "audit", "read"), load: async () => (await import("./pages/audit")).AuditPage },
  { page: "users", title: "Users", icon: "users", group: "manage", offered: (me) => may(me, "users", "read"), load: async () => (await import("./pages/users")).UsersPage },
  { page: "roles", title: "Roles", icon: "roles", group: "manage", offered: (me) => may(me, "roles", "read"), load: async () => (await import("./pages/roles")).RolesPage },
  { page: "tokens", title: "Join tokens", icon: "tokens", group: "manage", offered: (me) => may(me, "tokens", "read"), load: async () => (await import("./pages/tokens")).TokensPage },
  { page: "pending", title: "Waiting devices", icon: "pending", group: "manage", offered: (me) => may(me, "nodes", "update"), load: async () => (await import("./pages/pending")).PendingPage },
  { page: "locks", title: "Locks", icon: "locks", group: "manage", offered: (me) => may(me, "locks", "read"), load: async () => (await import("./pages/locks")).LocksPage },
  { page: "account", title: "Your account", icon: "account", group: "own", offered: everybody, load: async () => (await import("./pages/account")).AccountPage },
];

export function entry(me: Whoami, page: string): Entry | null {
  return ENTRIES.find((one) => one.page === page && one.offered(me)) ?? null;
}
