-- An outcome whose owner removed the job: it counts, and nothing of what came of it is kept.
ALTER TABLE job_outcomes ADD COLUMN removed_at TIMESTAMPTZ;
