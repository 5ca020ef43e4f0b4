"""The codes with which a hospital refuses a job, in words for the submitter.

Only the code leaves a hospital; the sentence with the details stays in its own log.
"""

REFUSALS = {
    "already-run": "the job has begun another run before; export it again",
    "altered-job": "the job differs from what was signed and submitted",
    "bad-job-id": "the job's id is none",
    "bad-json": "a file of the job is not JSON",
    "bad-ledger": "the hospital's record of admitted jobs is damaged",
    "bad-record": "a run, a hospital or another value in the job's meta.json is none",
    "bad-setting": "a setting has a value that it cannot have",
    "bad-signature": "the job is not signed",
    "bad-study": "the job's study.json is not what an export writes",
    "brings-code": "the job brings code, and the hospital lets no one of this role bring any",
    "deploy-failed": "FLARE could not deploy the job at the hospital; its own log has the reason",
    "expired-signer": "the submitter's certificate is not valid now",
    "gate-failed": "the hospital could not check the job",
    "job-expired": "the date until which the job could first be started has passed",
    "missing-file": "the job lacks a file",
    "not-admitted": "the job was started without having been deployed",
    "not-authorized": "the hospital lets no one of this role or organisation submit jobs",
    "not-exported": "the job was not written by export-job",
    "not-your-run": "somebody else began the run that the job continues",
    "other-configuration": "the job's configuration is not the package's own",
    "other-submitter": "the job was signed by somebody else than its submitter",
    "other-version": "the job was made with another version of the package",
    "refused-command": "the hospital does not take this command",
    "start-failed": "FLARE could not start the job at the hospital; its own log has the reason",
    "unknown-file": "the job holds a file that no job has",
    "unknown-key": "meta.json holds a key that no job has",
    "unknown-setting": "there is no such setting",
    "unsafe-archive": "the archive is damaged, too large or holds something else than plain files",
    "wrong-signer": "the job is not signed with a person's certificate of this consortium",
}


def describe_refusal(code: str) -> str:
    """Returns a code with its meaning; an unknown code alone."""
    return f"{code}, {REFUSALS[code]}" if code in REFUSALS else code
