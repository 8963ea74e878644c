// A real identity provider for people and programs: `node provider.mjs PORT`. Each start has new keys.
// Everybody may log in with any password; who is called `root` is in the group vm-admins.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import Provider from 'oidc-provider';

const port = Number(process.argv[2]);
const kinds = [
  ['RS256', 'rsa', { modulusLength: 2048 }],
  ['PS256', 'rsa', { modulusLength: 2048 }],
  ['ES256', 'ec', { namedCurve: 'P-256' }],
  ['EdDSA', 'ed25519', {}],
];
const keys = kinds.map(([alg, kind, options]) => {
  const jwk = generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' });
  return { ...jwk, alg, use: 'sig', kid: randomBytes(8).toString('hex') };
});
const groups = (id) => (id === 'root' ? ['staff', 'vm-admins'] : ['staff']);

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys },
  cookies: { keys: [randomBytes(16).toString('hex')] },
  clients: [
    {
      client_id: 'vmctl',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      grant_types: ['authorization_code'],
      redirect_uris: ['http://127.0.0.1:1/callback'],
    },
    {
      client_id: 'robot',
      client_secret: 'a-secret-of-the-robot',
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
    },
  ],
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA'] },
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:vm-api:RS256',
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({
        scope: 'vms',
        audience: resource.startsWith('urn:vm-api') ? 'vm-api' : resource,
        accessTokenFormat: 'jwt',
        accessTokenTTL: 300,
        jwt: { sign: { alg: resource.split(':')[2] } },
      }),
    },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  extraTokenClaims: (_, token) =>
    token.accountId && { preferred_username: token.accountId, groups: groups(token.accountId) },
});
provider.listen(port, '127.0.0.1', () => console.log('ready'));
