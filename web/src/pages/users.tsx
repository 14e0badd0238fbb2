import { Head } from "../parts/basics";

export function UsersPage() {
  return <Head title="Users" />;
}
