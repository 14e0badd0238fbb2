import { Head } from "../parts/basics";

export function AccountPage() {
  return <Head title="Your account" />;
}
