/** Delivery details as they were sealed for a purchase; the digest tells them from others. */
export interface Sealed {
  readonly digest: Uint8Array;
  readonly envelope: Uint8Array;
}

/** A purchase as this browser keeps it. */
export interface KeptPurchase {
  /** 32 hex digits. */
  readonly purchaseId: string;
  readonly dropId: string;
  readonly title: string;
  readonly price: { readonly currency: string; readonly minorUnits: bigint };
  /** When it was kept, ms since 1970 by the platform's clock. */
  readonly keptMs: number;
  /** The offer token: reads the purchase while there is no receipt, since the answer may have been lost. */
  readonly offerToken?: string;
  /** Signed by the node that accepted. */
  readonly receipt?: string;
  /** The region that accepted. */
  readonly region?: string;
  /** Where it goes, for whoever packs it alone: a repeated call must be the same. */
  readonly sealed?: Sealed;
  /** Signed by the verifier; nothing changes after it. */
  readonly outcome?: string;
  /** Names the intention, and the trace of its calls. */
  readonly requestId: string;
  /** Whose claim it was: repeats it with requestId, to find one whose answer was lost. */
  readonly session?: Uint8Array;
}

/** Where purchases are kept. */
export interface PurchaseStore {
  put(purchase: KeptPurchase): Promise<void>;
  delete(purchaseId: string): Promise<void>;
  get(purchaseId: string): Promise<KeptPurchase | undefined>;
  all(): Promise<KeptPurchase[]>;
}

/** Keeps until the page goes: for browsers that keep nothing, and for tests. */
export class MemoryStore implements PurchaseStore {
  readonly #kept = new Map<string, KeptPurchase>();

  async put(purchase: KeptPurchase): Promise<void> {
    this.#kept.set(purchase.purchaseId, purchase);
  }
  async delete(purchaseId: string): Promise<void> {
    this.#kept.delete(purchaseId);
  }
  async get(purchaseId: string): Promise<KeptPurchase | undefined> {
    return this.#kept.get(purchaseId);
  }
  async all(): Promise<KeptPurchase[]> {
    return [...this.#kept.values()];
  }
}

const TABLE = "purchases";

/** Keeps over reloads, per origin. */
export class IndexedDbStore implements PurchaseStore {
  private constructor(private readonly db: IDBDatabase) {}

  static async open(name = "rimlight"): Promise<IndexedDbStore> {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "purchaseId" });
    return new IndexedDbStore(await settled(request));
  }

  async put(purchase: KeptPurchase): Promise<void> {
    await this.#do("readwrite", (table) => table.put(purchase));
  }
  async delete(purchaseId: string): Promise<void> {
    await this.#do("readwrite", (table) => table.delete(purchaseId));
  }
  get(purchaseId: string): Promise<KeptPurchase | undefined> {
    return this.#do("readonly", (table) => table.get(purchaseId));
  }
  all(): Promise<KeptPurchase[]> {
    return this.#do("readonly", (table) => table.getAll());
  }

  #do<T>(mode: IDBTransactionMode, act: (table: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    // "strict": a receipt is kept when it is on the disk, not when the browser means to write it.
    const transaction = this.db.transaction(TABLE, mode, { durability: "strict" });
    const request = act(transaction.objectStore(TABLE));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

/** The browser's database, or memory where there is none (private windows, sandboxed frames). */
export async function openStore(): Promise<PurchaseStore> {
  try {
    return await IndexedDbStore.open();
  } catch {
    return new MemoryStore();
  }
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
